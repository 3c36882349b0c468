"""Puts the U-shaped loop into the trainer."""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm

from ..datamodules import FederatedDataModule
from ..engines import PrivateEngine
from ..errors import CheckpointError, HuscfError, check_count
from ..methods import Method
from ..planning import Precision
from ..training import RankedStrategy, UShapedLoop, install_step_loop, note_sigterm
from .base import RoundCallback
from .clustered_federation import ClusteredFederation


class SplitTraining(Callback):
    """Lets the trainer run U-shaped steps over all clients; every training run needs it.

    Args:
        num_threads: Threads inside PyTorch's operators on the CPU; 0 leaves PyTorch's choice.
            Networks as small as the quickstart's are quickest with one.
    """

    def __init__(self, num_threads: int = 0) -> None:
        check_count("training.num_threads", num_threads, most=1024)  # far more crash PyTorch
        self.num_threads = num_threads

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the loop before the loops' progress is restored."""
        if trainer.world_size > 1 and not isinstance(trainer.strategy, RankedStrategy):
            raise HuscfError(
                f"trainer.strategy: {type(trainer.strategy).__name__} does not know how to share "
                f"out clients over {trainer.world_size} processes: give the trainer "
                "huscf.training.RankedStrategy(), as huscf fit does by itself"
            )
        if trainer.precision not in get_args(Precision):
            raise HuscfError(
                f"trainer.precision: {trainer.precision} is not supported; use "
                f"{' or '.join(get_args(Precision))}"
            )
        _check_batch_norm(pl_module, getattr(trainer.datamodule, "batch_sizes", {}))  # type: ignore[attr-defined]
        check_method(pl_module, trainer.datamodule)  # type: ignore[attr-defined]
        check_sampling(trainer, pl_module)
        _warn_of_endless_rounds(trainer)
        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        install_step_loop(trainer, UShapedLoop(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say whether steps will train nothing; let SIGTERM end all processes at the same step."""
        warn_of_idle_steps(pl_module, trainer.estimated_stepping_batches)
        if trainer.world_size > 1:
            note_sigterm(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on between an epoch's last step and its end, which Lightning would skip."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        steps = progress["total"]
        if progress["is_last_batch"] and steps["completed"] < steps["processed"]:
            raise CheckpointError(
                "the checkpoint was saved after an epoch's last step and before the epoch's end, "
                "whose federation would be lost: go on from another, as last.ckpt"
            )


def _warn_of_endless_rounds(trainer: Trainer) -> None:
    """Say which callbacks wait for rounds that nobody ends."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    waiting = [type(c).__name__ for c in callbacks if isinstance(c, RoundCallback)]
    if waiting and not any(isinstance(c, ClusteredFederation) for c in callbacks):
        rank_zero_warn(
            f"{', '.join(waiting)}: no round ends unless a callback calls "
            "huscf.callbacks.end_round: put huscf.callbacks.ClusteredFederation among the callbacks"
        )


def warn_of_idle_steps(module: LightningModule, num_steps: float) -> None:
    """Say from which of a run's steps on learning rates are 0.

    Args:
        module: The root module.
        num_steps: Of the whole run; infinite where nobody knows.
    """
    method = getattr(module, "method", None)
    schedule = method.rate_schedule if isinstance(method, Method) else None
    if schedule is None or schedule.fall_until is None:
        return
    end = schedule.fall_until
    if schedule.last_part == 0 and end < num_steps:
        rank_zero_warn(
            f"method.rate_schedule.fall_until: learning rates are 0 from step {end} on, and the "
            f"run has {num_steps:g}: the others train nothing"
        )


def check_method(module: LightningModule, data: Any) -> None:
    """Refuse options of the method that are not for these data; warn of doubtful ones."""
    method = getattr(module, "method", None)
    if isinstance(method, Method) and isinstance(data, FederatedDataModule):
        for line in method.check_data(data.spectrogram is not None, tuple(data.domains)):
            rank_zero_warn(line)


def check_sampling(trainer: Trainer, module: LightningModule) -> None:
    """Refuse batches that are not drawn as an accountant takes them to be, or the reverse."""
    engine = getattr(module, "engine", None)
    sampling = getattr(trainer.datamodule, "sampling", "shuffled")  # type: ignore[attr-defined]
    if not isinstance(engine, PrivateEngine):
        if sampling == "poisson":
            raise HuscfError(
                "data.sampling: batches drawn by poisson may be empty, which only model.privacy "
                "knows to train on: set it to shuffled"
            )
        return
    if sampling != "poisson":
        raise HuscfError(
            "data.sampling: model.privacy counts on batches whose records are drawn one by one: "
            "set it to poisson"
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise HuscfError("trainer.overfit_batches: under model.privacy no batch may come twice")
    engine.begin()


def _check_batch_norm(module: LightningModule, batch_sizes: Mapping[int, int]) -> None:
    """Refuse batches of one sample, which have no statistics to be normalised with."""
    single = [client_id for client_id, size in batch_sizes.items() if size < 2]
    if single and any(isinstance(layer, _BatchNorm) for layer in module.modules()):
        raise HuscfError(
            f"client {single[0]} has batches of one sample, which batch norm cannot normalise: set "
            "data.batch_size to 2 or more, or norm of generator and discriminator to group"
        )
