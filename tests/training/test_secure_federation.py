"""The option federation.secure of a run: what it gives, counts, and refuses before training."""

import json

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.training import Federation
from tests.conftest import make_batch, make_gan
from tests.privacy.test_audit import QUICK
from tests.test_security import MINI

#: Four clients in one cluster, and small networks whose blocks three or more hold.
SECURE = yaml.safe_load(MINI)
SECURE["data"]["init_args"]["clients_per_domain"] = 2
SECURE["federation"] = {
    "secure": True,
    "rule": {"class_path": "huscf.federation.OneCluster"},
    "weighting": "samples",
}
SECURE["trainer"]["max_epochs"] = 2


def fit(folder, *options, name="run"):
    folder.mkdir(exist_ok=True)
    (folder / "mini.yaml").write_text(yaml.safe_dump(SECURE))
    config = ["--config", str(folder / "mini.yaml"), f"--trainer.default_root_dir={folder}"]
    try:
        return main(["fit", *config, f"--run.name={name}", *options])
    except SystemExit as stopped:
        return stopped.code


def tensors(folder, name="run"):
    path = folder / f"{name}-1" / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_secure_run_is_the_plain_one_to_rounding_and_repeats_bit_for_bit(tmp_path):
    assert fit(tmp_path, name="secure") == 0
    assert fit(tmp_path, name="again") == 0
    assert fit(tmp_path, "--federation.secure", "false", name="plain") == 0
    one, other, plain = (tensors(tmp_path, name) for name in ("secure", "again", "plain"))
    # Keys are drawn anew each time, and leave no trace.
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    gaps = [(t.double() - plain[n].double()).abs().max().item() for n, t in one.items()]
    assert 0 < max(gaps) < 1e-3


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    assert fit(tmp_path, name="whole") == 0
    assert fit(tmp_path, "--trainer.max_epochs", "1", name="part") == 0
    checkpoint = str(tmp_path / "part-1" / "checkpoints" / "last.ckpt")
    assert fit(tmp_path, "--ckpt_path", checkpoint, name="part") == 0
    one, other = tensors(tmp_path, "whole"), tensors(tmp_path, "part")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_an_audit_knows_that_the_server_gets_sums_alone(tmp_path):
    assert fit(tmp_path) == 0
    assert main(["audit", "--ckpt_path", str(tmp_path / "run-1"), *QUICK]) == 0
    found = json.loads((tmp_path / "run-1" / "audit.json").read_text())
    assert found["not_applicable"] == {
        "classes from averaged blocks": "federation.secure: of blocks the server gets sums alone"
    }


def test_blocks_that_too_few_of_a_cluster_hold_are_told_in_one_line():
    cuts = {**dict.fromkeys(range(4), (1, 1, 1, 1)), 4: (2, 1, 1, 2), 5: (2, 1, 1, 2)}
    cuts[6] = cuts[4]
    module = make_gan(cuts, depth=4)
    federation = Federation(rule=lambda features, seed: [0, 0, 0, 0, 0, 0, 1], secure=True)
    federation.begin(module)
    federation.observe_batch(module, make_batch(cuts, size=64))
    (line,) = federation.end_round(module, is_last=False).warnings
    assert line == (
        "federation.secure: block 1 of the generator in cluster 0 is held by clients 4, 5 alone, "
        "and 1 blocks more alike: these keep their own; sums need three"
    )


def test_who_is_alone_is_neither_summed_nor_told_of(tmp_path, capsys):
    assert fit(tmp_path, "--federation.rule=huscf.federation.EachAlone") == 0
    assert "federation.secure" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--data.clients_per_domain", "1"],
            "federation.secure: block 0 of the generator is held by clients 0, 1 alone, and a sum "
            "of fewer than three gives single ones away",
        ),
        (
            [
                "--model.plan=huscf.split.ProfilePlan",
                "--model.plan.init_args.profiles={a: [2, 1, 1, 1], b: [1, 1, 1, 1]}",
            ],
            "federation.secure: block 1 of the generator is held by clients 0, 2 alone",
        ),
        (["--replanning.every_n_rounds", "1"], "moved blocks cross in the clear; set it to 0"),
        (["--federation.moments", "average"], "set federation.moments to keep or reset"),
        (
            ["--model.method=huscf.methods.MdGan", "--federation.secure", "true"],
            "MdGan shows or passes on single clients' blocks, which no sum hides",
        ),
    ],
)
def test_what_sums_cannot_hide_is_refused_before_training(tmp_path, capsys, options, reason):
    assert fit(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("huscf: error:") == 1
    assert not list(tmp_path.rglob("*.ckpt"))


def test_without_cryptography_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huscf.training.federation_checks.find_spec", lambda name: None)
    assert fit(tmp_path) == 2
    assert "needs cryptography, of the extra deploy: pip install 'huscf[deploy]'" in (
        capsys.readouterr().err
    )
