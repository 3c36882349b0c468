"""The option federation.privacy of a run: what it says every round, and what is refused before."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.engines import ClientPrivacy, PrivateAverages
from huscf.errors import CheckpointError
from tests.private_cases import command, enter, read_rows, read_tensors
from tests.test_security import refuse

#: On top of MINI: four clients that keep all blocks, rounds of one epoch of one step.
PRIVATE = """
data: {init_args: {clients_per_domain: 2}}
model:
  method:
    class_path: huscf.methods.FedGan
    init_args:
      generator: {init_args: {norm: group, width: 4}}
      discriminator: {init_args: {norm: group, width: 4}}
federation:
  privacy: {noise_multiplier: 1.0, max_update_norm: 0.1, delta: 0.01, accountant: rdp}
  rule: huscf.federation.OneCluster
  weighting: uniform
trainer: {max_epochs: 4}
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch, PRIVATE)


def read_epsilons(run):
    return [float(row["privacy/client_epsilon"]) for row in read_rows(run)]


def test_a_run_says_epsilon_every_round_and_goes_on_bit_for_bit(work, capsys):
    assert main(command("--run.name", "whole")) == 0
    assert "privacy/client_epsilon" in capsys.readouterr().out
    epsilons = read_epsilons("whole-1")
    assert len(epsilons) == 4 and sorted(set(epsilons)) == epsilons and epsilons[0] > 0
    assert {float(row["privacy/client_delta"]) for row in read_rows("whole-1")} == {0.01}
    assert main(command("--run.name", "half", "--trainer.max_epochs", "2")) == 0
    last = "runs/half-1/checkpoints/last.ckpt"
    assert main(command("--run.name", "half", "--ckpt_path", last)) == 0
    one, other = read_tensors("whole-1"), read_tensors("half-1")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert read_epsilons("half-1") == epsilons
    # Whoever has an average has the same one.
    names = [name for name in one if name.startswith("parties.clients.0.")]
    assert all(torch.equal(one[n], one[n.replace("clients.0", "clients.3")]) for n in names)
    assert main(["generate", "--ckpt_path=runs/whole-1", "--output=drawn", "--num_samples=10"]) == 0
    card = Path("drawn/README.md").read_text()
    assert "| seed | kept back" in card and "privacy covers what was trained, not the fig" in card


def test_training_ends_with_the_last_round_of_the_budget_and_cannot_go_on(work, capsys):
    averages = PrivateAverages(ClientPrivacy(1.0, 0.1, 0.01, accountant="rdp"))
    epsilons = [averages.epsilon(rounds) for rounds in (1, 2, 3)]
    budget = f"{(epsilons[1] + epsilons[2]) / 2}"
    limit = ("--federation.privacy.max_epsilon", budget)
    assert main(command("--run.name", "spent", *limit)) == 0
    assert read_epsilons("spent-1") == pytest.approx(epsilons[:2], rel=1e-4)
    assert [row["step"] for row in read_rows("spent-1")] == ["1", "2"]
    last = "runs/spent-1/checkpoints/last.ckpt"
    line = refuse(command("--run.name", "spent", "--ckpt_path", last, *limit), capsys)
    assert f"federation.privacy.max_epsilon is {float(budget):g}, of which" in line
    assert f"{epsilons[1]:.4g} is spent, and the next round would bring it to" in line
    line = refuse(command(*limit, "--trainer.min_epochs", "3"), capsys)
    assert "another round would exceed it; trainer.min_epochs and min_steps" in line


def test_rounds_that_had_other_noise_are_not_counted_as_if_they_had_this(work, capsys):
    assert main(command("--federation.privacy", "null", "--trainer.max_epochs", "1")) == 0
    again = command("--ckpt_path", "runs/run-1/checkpoints/last.ckpt", "--allow_changed")
    line = refuse([*again, "federation.privacy"], capsys)
    assert "noise_multiplier is 1, and the checkpoint's rounds had none: keep that" in line
    state = PrivateAverages(ClientPrivacy(0.5, 1.0, 0.01)).state_dict()
    with pytest.raises(CheckpointError, match=r"rounds had 0\.5: keep that, or train anew"):
        PrivateAverages(ClientPrivacy(2.0, 1.0, 0.01)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--federation.privacy.delta", "null"], "federation.privacy.delta: an epsilon says nothi"),
        (["--federation.privacy.delta", "0.3"], "must be far below 0.25, 1 / the 4 clients"),
        (["--federation.privacy.max_update_norm", "0"], "max_update_norm is 0.0, must be"),
        (
            ["--federation.privacy={delta: 0.01, noise_multiplier: 0, max_epsilon: 1}"],
            "without noise there is no epsilon: set federation.privacy.noise_multiplier above 0",
        ),
        (
            ["--federation.privacy.max_epsilon", "0.5"],
            "federation.privacy.max_epsilon is 0.5, of which 0 is spent, and the next round would "
            "bring it to ",
        ),
        (
            ["--model.method.generator.init_args.norm", "batch"],
            "block 0 of the generator keeps running_mean of its batches, which is no weight to be "
            "clipped and noised: set norm of the network to group",
        ),
        (
            ["--model.method.discriminator.init_args.spectral_norm", "true"],
            "block 0 of the discriminator keeps _u of its batches",
        ),
        (
            ["--model.method.class_path", "huscf.methods.HuscfGan"],
            "block 1 of the generator lies at the server and learns from every client",
        ),
        (["--federation.rule", "null"], "clusters or weights that are found in what clients send"),
        (["--federation.weighting", "samples"], "set federation.weighting to uniform"),
        (["--federation.weighting", "kld"], "set federation.weighting to uniform"),
        (["--federation.moments", "average"], "federation.privacy: moments are no sums"),
        (["--federation.secure", "true"], "set federation.secure to false"),
        (["--replanning.every_n_rounds", "1"], "set it to 0, or federation.privacy to null"),
        (
            [
                "--federation.rule=huscf.federation.GivenClusters",
                "--federation.rule.clusters=[[0, 1, 2], [3]]",
            ],
            "client 3 is alone in its cluster, where no average hides it",
        ),
    ],
)
def test_what_hides_no_client_is_refused_before_training(work, capsys, options, reason):
    line = refuse(command(*options), capsys)
    assert reason in line
    assert not list(work.rglob("*.ckpt"))


def test_methods_that_show_single_clients_blocks_are_refused(work, capsys):
    overlay = yaml.safe_load(PRIVATE)
    for name in ("PflGan", "IflGan", "HflGan"):
        overlay["model"]["method"]["class_path"] = f"huscf.methods.{name}"
        Path("private.yaml").write_text(yaml.safe_dump(overlay))
        assert "federation.privacy: " in refuse(command(), capsys), name


def test_without_the_extra_it_says_what_to_install(work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert "pip install 'huscf[privacy]'" in refuse(command(), capsys)
    assert not list(work.rglob("*.ckpt"))
