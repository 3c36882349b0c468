"""The best round: who decides about it, where it is kept, and how it is asked for."""

import math
import os
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.callbacks import BestRound, RoundCheckpoint, RoundResult
from huscf.callbacks.best_round import HELD_OUT
from huscf.datamodules import DigitsDataModule
from huscf.datamodules.client_batches import ClientBatches
from huscf.errors import CheckpointError
from huscf.resuming import find_checkpoint
from huscf.training import LinkingCheckpoint, SplitModule
from tests.test_cli import checkpoint, fit, rows

HOLD_OUT = "--data.init_args.held_out=0.2"


ENOUGH = "--data.init_args.samples_per_client=120"


def fit_held_out(root, *options):
    """A run whose clients hold 24 samples out, about two of each class."""
    assert fit(root, HOLD_OUT, ENOUGH, *options) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three rounds of one step."""
    root = tmp_path_factory.mktemp("runs")
    fit_held_out(root, "--trainer.max_epochs=3")
    return root / "quickstart-1"


def test_what_is_held_out_is_never_trained_on_and_nothing_is_lost():
    whole = DigitsDataModule(clients_per_domain=3).clients
    parted = DigitsDataModule(clients_per_domain=3, held_out=0.25).clients
    for one, other in zip(whole, parted, strict=True):
        assert len(other.held_out) == round(0.25 * len(one))
        both = np.concatenate([other.indices, other.held_out])
        assert sorted(both) == sorted(one.indices)
        assert not len(one.held_out)
    assert {c.client_id for c in ClientBatches(parted, 8, 0).clients} == set(range(6))


def test_the_best_round_is_that_with_the_least_distance(run):
    distances = [float(row["held_out/distance"]) for row in rows(run)]
    folder = run / "checkpoints"
    best = checkpoint(folder / "best.ckpt")
    assert best["huscf"]["num_rounds"] == 1 + distances.index(min(distances))
    assert checkpoint(folder / "last.ckpt")["huscf"]["num_rounds"] == 3


def test_a_round_is_on_disk_once(run):
    folder = run / "checkpoints"
    assert os.path.samefile(folder / "last.ckpt", folder / "round-0003.ckpt")
    assert {p.name for p in folder.iterdir()} == {
        *("best.ckpt", "last.ckpt", "round-0002.ckpt", "round-0003.ckpt"),
    }
    assert not any(p.is_symlink() for p in folder.iterdir())


def test_a_process_without_the_folder_leaves_the_best_round_to_the_first(tmp_path, monkeypatch):
    """On another machine there is no folder; on one, two would name the file at once."""
    monkeypatch.setattr(LinkingCheckpoint, "on_train_epoch_end", lambda *_: None)
    keeper, waited = RoundCheckpoint(), []
    keeper.best_model_path = str(tmp_path / "elsewhere" / "round-0001.ckpt")
    strategy = SimpleNamespace(barrier=lambda: waited.append(True))
    trainer = SimpleNamespace(
        is_global_zero=False, callback_metrics={HELD_OUT: 0.5}, strategy=strategy
    )
    keeper.on_train_epoch_end(trainer, Mock(spec=SplitModule, num_rounds=1))
    assert waited == [True]


def test_a_run_that_goes_on_keeps_the_best_so_far(tmp_path, run):
    fit_held_out(tmp_path, "--trainer.max_epochs=2")
    folder = tmp_path / "quickstart-1"
    resume = f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    fit_held_out(tmp_path, "--trainer.max_epochs=3", resume)
    names = ("held_out/distance", "step")
    assert [[r[n] for n in names] for r in rows(folder)] == [
        [r[n] for n in names] for r in rows(run)
    ]
    bests = [checkpoint(f / "checkpoints" / "best.ckpt") for f in (folder, run)]
    assert bests[0]["global_step"] == bests[1]["global_step"]


def test_best_and_last_are_asked_for_by_name(run, tmp_path, monkeypatch, capsys):
    root = run.parent
    best, last = (str(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    assert find_checkpoint("best", root) == best
    assert find_checkpoint("last", root) == last
    assert find_checkpoint(f"{run}/best", root) == best
    assert find_checkpoint(f"{run}/last", root) == last
    assert find_checkpoint(str(run), root) == last
    assert find_checkpoint(last, root) == last
    out = tmp_path / "out"
    command = ["generate", "--ckpt_path", f"{run}/best", "--num_samples", "10"]
    assert main([*command, "--output", str(out)]) == 0
    assert (
        main(["export", "--ckpt_path", f"{run}/best", "--cluster", "0", "--output", f"{out}.pt"])
        == 0
    )
    capsys.readouterr()


def test_a_run_that_holds_nothing_out_has_no_best_and_says_how_to(tmp_path):
    (tmp_path / "run-1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run-1" / "checkpoints" / "last.ckpt").write_bytes(b"")
    for given in ("best", f"{tmp_path}/run-1/best"):
        with pytest.raises(CheckpointError, match=r"best.*data\.held_out") as caught:
            find_checkpoint(given, tmp_path)
        assert "\n" not in str(caught.value)


class Trainer:
    """What the callback reads of a trainer."""

    should_stop = False

    def __init__(self, data):
        self.datamodule = data


class Fading:
    """Draws real samples of the wanted classes, darker with every round."""

    seed = 0

    def __init__(self, data, brightness):
        self.data, self.brightness = data, iter(brightness)
        self.factor = 1.0

    def begin_round(self):
        self.factor = next(self.brightness)

    def sample(self, client_id, labels, stream):
        domain = self.data.clients[client_id].domain
        order = torch.randperm(len(domain.test_labels), generator=stream)
        found = {int(v): order[domain.test_labels[order] == v] for v in labels.unique()}
        rows_ = [found[int(v)][i % len(found[int(v)])] for i, v in enumerate(labels)]
        return (domain.test_samples[torch.stack(rows_)].float() / 127.5 - 1) * self.factor


@pytest.mark.parametrize(("patience", "stops_after"), [(0, None), (2, 4)])
def test_training_stops_after_so_many_rounds_without_a_better_one(patience, stops_after):
    data = DigitsDataModule(clients_per_domain=1, held_out=0.2)
    trainer, module = Trainer(data), Fading(data, [0.5, 1.0, 0.8, 0.6, 0.4])
    best, seen = BestRound(patience), []
    for number in range(1, 6):
        module.begin_round()
        result = RoundResult(number, None, None)
        best.on_round_end(trainer, module, result)
        seen.append(result.figures["held_out/distance"])
        if trainer.should_stop:
            break
    assert (number if trainer.should_stop else None) == stops_after
    assert min(seen) == seen[1] == best.least
    assert best.state_dict() == {"least": seen[1], "num_worse": len(seen) - 2}
    has_stopped = f"best_round.patience {patience}" if stops_after else ""
    assert best.explain_stop(best.state_dict()) == has_stopped
    assert BestRound(patience + 9).explain_stop(best.state_dict()) == ""


def test_too_little_held_out_is_said_before_training():
    few = DigitsDataModule(clients_per_domain=1, held_out=0.01)
    with pytest.warns(UserWarning, match="2 of 2 clients, client 0 first, hold out fewer than 20"):
        BestRound().on_fit_start(Trainer(few), None)
    nothing = DigitsDataModule(clients_per_domain=1)
    with pytest.warns(UserWarning, match=r"no client holds anything out: set data\.held_out"):
        BestRound(patience=1).on_fit_start(Trainer(nothing), None)
    result = RoundResult(1, None, None)
    BestRound().on_round_end(Trainer(nothing), None, result)
    assert result.figures == {} and BestRound().least == math.inf


def test_the_section_is_in_the_configuration(run):
    assert yaml.safe_load((run / "config.yaml").read_text())["best_round"] == {"patience": 0}
