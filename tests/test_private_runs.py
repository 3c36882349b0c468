"""Differential privacy as users meet it: refusals before training, figures, the end of a budget."""

import sys
from pathlib import Path

import pytest
import torch

from huscf.__main__ import main
from tests.private_cases import command, enter, read_rows, read_tensors
from tests.test_security import refuse

#: On top of MINI; batches of 4 of 32 records, rounds of one epoch of three steps.
PRIVATE = """
data:
  init_args: {samples_per_client: 32, sampling: poisson, steps_per_epoch: 3}
model:
  engine: serial
  privacy: {noise_multiplier: 1.0, delta: 0.001, accountant: rdp}
  method:
    init_args:
      discriminator: {init_args: {norm: group, width: 4}}
      fake_label_weights: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
federation: {rule: huscf.federation.OneCluster}
trainer: {max_epochs: 4}
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch, PRIVATE)


def test_a_run_says_epsilon_every_round_and_goes_on_bit_for_bit(work, capsys):
    assert main(command("--run.name", "whole")) == 0
    assert "privacy/epsilon" in capsys.readouterr().out
    rows = read_rows("whole-1")
    epsilons = [float(row["privacy/epsilon"]) for row in rows]
    assert len(epsilons) == 4 and sorted(set(epsilons)) == epsilons and epsilons[0] > 0
    assert {float(row["privacy/delta"]) for row in rows} == {0.001}
    assert main(command("--run.name", "half", "--trainer.max_epochs", "2")) == 0
    last = "runs/half-1/checkpoints/last.ckpt"
    assert main(command("--run.name", "half", "--ckpt_path", last)) == 0
    one, other = read_tensors("whole-1"), read_tensors("half-1")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert [float(row["privacy/epsilon"]) for row in read_rows("half-1")] == epsilons
    drawn = ["generate", "--ckpt_path=runs/whole-1", "--output=drawn", "--num_samples=10"]
    assert main(drawn) == 0
    card = Path("drawn/README.md").read_text()
    assert "| seed | kept back" in card and "privacy covers what was trained, not the fig" in card


def test_training_ends_with_the_budget_and_a_round_and_cannot_go_on(work, capsys):
    assert main(command("--run.name", "whole")) == 0
    rows = read_rows("whole-1")
    first, second = (float(row["privacy/epsilon"]) for row in rows[:2])
    budget = f"{(first + second) / 2}"
    limited = command("--run.name", "spent", "--model.privacy.max_epsilon", budget)
    assert main(limited) == 0
    found = read_rows("spent-1")
    assert [row["step"] for row in found] in (["3", "4"], ["3", "5"])  # within the second epoch
    assert first < float(found[-1]["privacy/epsilon"]) <= float(budget)
    last = "runs/spent-1/checkpoints/last.ckpt"
    line = refuse([*limited, "--ckpt_path", last, "--trainer.max_epochs", "9"], capsys)
    assert "privacy.max_epsilon" in line and "is spent" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.init_args.sampling=shuffled"], "set it to poisson"),
        (["--data.init_args.label_sampling=balanced"], "balanced batches are not drawn"),
        (["--model.privacy.max_epsilon=0.0001"], "of which 0 is spent"),
        (["--model.privacy.delta=null"], "privacy.delta: an epsilon says nothing without it"),
        (["--model.privacy.delta=0.2"], "1 / the 32 records"),
        (["--model.engine=stacked"], "model.engine: stacked"),
        (["--model.method.init_args.discriminator.init_args.norm=batch"], "BatchNorm2d"),
        (["--model.method.init_args.fake_label_weights=null"], "fake_label_weights"),
        (["--federation.rule=huscf.federation.KMeansClusters"], "GivenClusters"),
        (["--model.on_nonfinite=drop"], "on_nonfinite"),
        (["--trainer.overfit_batches=1"], "no batch may come twice"),
        (["--model.privacy=null"], "only model.privacy knows"),
    ],
)
def test_what_is_no_guarantee_is_refused_before_anything_is_trained(work, capsys, options, message):
    assert message in refuse(command(*options), capsys)
    assert not list(work.glob("runs/*/metrics.csv"))


@pytest.mark.parametrize(
    ("changed", "option", "reason"),
    [
        (
            "--model.privacy.noise_multiplier=8",
            "model.privacy.noise_multiplier",
            "model.privacy.noise_multiplier is 8, and the checkpoint's steps had 1: keep that",
        ),
        (
            "--data.batch_size=2",
            "data.batch_size",
            "batches of client 0 have 2 records, and those of the checkpoint's steps, which "
            "model.privacy has counted, had 4: keep that",
        ),
    ],
)
def test_steps_are_not_counted_by_noise_or_batches_that_they_did_not_have(
    work, capsys, changed, option, reason
):
    assert main(command("--trainer.max_epochs", "1")) == 0
    again = command("--ckpt_path", "runs/run-1/checkpoints/last.ckpt", changed)
    assert reason in refuse([*again, "--allow_changed", option], capsys)
    assert [row["round"] for row in read_rows("run-1")] == ["1"]


def test_without_the_extra_it_says_what_to_install(work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert "pip install 'huscf[privacy]'" in refuse(command(), capsys)
