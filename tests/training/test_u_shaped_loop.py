import inspect

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops.optimization.manual import _ManualOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from huscf.callbacks import ClusteredFederation, SplitTraining
from huscf.datamodules import DigitsDataModule
from huscf.errors import HuscfError
from huscf.models import AdversarialLoss, SampleShape
from huscf.training import UShapedLoop
from tests.conftest import ENGINES, make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 1]}


class HookRecorder(Callback):
    """Writes down which hook ran at which global step."""

    def __init__(self):
        self.seen = []

    def _record(name):
        def hook(self, trainer, *args, **kwargs):
            self.seen.append((name, trainer.global_step))

        return hook

    on_train_start = _record("train_start")
    on_train_epoch_start = _record("epoch_start")
    on_train_batch_start = _record("batch_start")
    on_train_batch_end = _record("batch_end")
    on_train_epoch_end = _record("epoch_end")
    on_train_end = _record("train_end")


def data(steps=2):
    return DigitsDataModule(clients_per_domain=1, batch_size=6, steps_per_epoch=steps)


def gan(**options):
    return make_gan(CUTS, shape=SampleShape(1, 8, 10), **options)


def fit(module, recorder=None, **kwargs):
    callbacks = [SplitTraining(), ClusteredFederation(), *([recorder] if recorder else [])]
    trainer = Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **kwargs,
    )
    trainer.fit(module, data())
    return trainer


def test_hooks_run_in_lightnings_order_and_a_step_counts_once():
    recorder = HookRecorder()
    trainer = fit(gan(), recorder, max_epochs=2)
    epoch = lambda first: [  # noqa: E731
        ("epoch_start", first),
        ("batch_start", first),
        ("batch_end", first + 1),
        ("batch_start", first + 1),
        ("batch_end", first + 2),
        ("epoch_end", first + 2),
    ]
    assert recorder.seen == [("train_start", 0), *epoch(0), *epoch(2), ("train_end", 4)]
    assert trainer.global_step == 4


def test_max_steps_means_exchanges():
    trainer = fit(gan(), max_steps=3)
    assert trainer.global_step == 3
    assert isinstance(trainer.fit_loop.epoch_loop.manual_optimization, UShapedLoop)


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_are_logged_and_parameters_move(engine):
    module = gan(engine=engine)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    trainer = fit(module, max_epochs=1)
    assert set(module.last_losses) == {"generator_loss", "discriminator_loss"}
    assert trainer.callback_metrics["train/generator_loss"] > 0
    after = module.state_dict()
    moved = [k for k, v in before.items() if not torch.equal(v, after[k])]
    assert any(k.startswith("parties.clients.0.trained.generator_head") for k in moved)
    assert any(k.startswith("parties.server.trained.discriminator") for k in moved)


def test_clients_forget_their_private_tensors_after_a_step():
    module = gan()
    fit(module, max_steps=1)
    assert all(module.client(c).private == {} for c in CUTS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_mixed_precision_crosses_in_half_the_bytes(precision, engine):
    def bytes_of_the_step(module):
        return module.wire.traffic.total(kinds=["activations", "gradients"])

    full, half = gan(engine=engine), gan(engine=engine)
    fit(full, max_steps=1)
    fit(half, max_steps=1, precision=precision)
    ratio = bytes_of_the_step(half) / bytes_of_the_step(full)
    assert 0.45 < ratio < 0.75
    assert half.last_losses["generator_loss"] == pytest.approx(
        full.last_losses["generator_loss"], abs=0.05
    )


def test_the_private_parts_of_lightning_that_we_rely_on_are_there():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    slot = trainer.fit_loop.epoch_loop.manual_optimization
    assert isinstance(slot, _ManualOptimization)
    assert slot.optim_step_progress.total.completed == 0
    assert list(inspect.signature(_ManualOptimization.advance).parameters) == ["self", "kwargs"]
    source = inspect.getsource(_TrainingEpochLoop)
    assert "self.manual_optimization.run(kwargs)" in source
    assert "manual_optimization.optim_step_progress.total.completed" in source
    assert "kwargs.values()" in inspect.getsource(_ManualOptimization.advance)


class Unreduced(AdversarialLoss):
    """A loss for each sample, and none at all."""

    def discriminator(self, logits, is_real):
        return -logits if is_real else logits.mean()

    def generator(self, logits):
        return logits.mean().item()


class HalfReduced(Unreduced):
    def discriminator(self, logits, is_real):
        return logits.mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Unreduced(), r"Unreduced.discriminator: needs .* scalar tensor, .* got \(6,\)"),
        (HalfReduced(), "HalfReduced.generator: needs .* scalar tensor, .* got float"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_is_no_scalar_is_refused_by_its_name(loss, message, engine):
    with pytest.raises(HuscfError, match=message):
        run_step(make_gan(CUTS, loss=loss, engine=engine), make_batch(CUTS))
