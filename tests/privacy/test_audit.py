"""The command: what it writes, that it can be repeated, and what it refuses."""

import json
import shutil

import pytest
import torch
import yaml
from PIL import Image

from huscf.__main__ import main
from huscf.callbacks.run_folder import DIGESTS
from huscf.planning.costs.leakage import Leakage
from huscf.privacy import Audit
from tests.test_security import MINI, refuse

QUICK = [
    *("--inversion_steps", "20", "--decoder_steps", "20", "--num_generated", "40"),
    *("--num_judged", "40", "--num_auxiliary", "40"),
]

OPTIMISED = "inversion by optimisation"


def fit(folder, *options):
    (folder / "mini.yaml").write_text(MINI)
    config = ["--config", str(folder / "mini.yaml"), f"--trainer.default_root_dir={folder}"]
    assert main(["fit", *config, *options]) == 0
    return folder / "run-1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("audited"))


@pytest.fixture(scope="module")
def audited(run):
    assert main(["audit", "--ckpt_path", str(run), *QUICK]) == 0
    return json.loads((run / "audit.json").read_text())


def test_it_leaves_figures_and_pictures_in_the_run_s_folder(run, audited):
    assert audited["checkpoint"].endswith("last.ckpt") and audited["round"] == 1
    assert audited["settings"]["inversion_steps"] == 20
    found = {(each["attack"], each["place"], each["knowing"]): each for each in audited["attacks"]}
    place = "discriminator_head 1, client 0"
    attacks = ["inversion by a decoder", "labels from activations", "labels from gradients"]
    assert list(found) == [
        ("inversion by optimisation", place, ""),
        *(
            (attack, place, origin)
            for origin in ("held-out digits", "negatives")
            for attack in attacks
        ),
        ("inversion by optimisation", f"{place}, when compared", ""),
        *(
            (attack, f"{place}, when compared", origin)
            for origin in ("held-out digits", "negatives")
            for attack in attacks[:2]
        ),
        ("classes from averaged blocks", "generator", ""),
        ("classes from averaged blocks", "discriminator", ""),
        ("membership by samples", "all domains", ""),
        ("membership by logits", "all domains", ""),
    ]
    for each in audited["attacks"]:
        assert each["trained"].keys() == each["untrained"].keys() <= each["chance"].keys()
        assert all(isinstance(value, float) for value in each["trained"].values())
        assert each["adversary"] in ("server", "cluster member", "sample holder")
    assert audited["not_applicable"] == {}
    # 8 samples of each of two clients have been trained on.
    assert audited["counts"] == {
        "auxiliary, held-out digits": 40,
        "auxiliary, negatives": 40,
        "members": 16,
        "others": 16,
        "generated": 80,
    }
    # So few steps come to less than the mean sample.
    assert audited["leakage"]["heads"] == {"1": 0.0}
    assert Leakage.load(str(run / "audit.json")).network == "discriminator"
    with Image.open(run / "audit.png") as picture:
        assert picture.width > 500 and picture.height > 200


def test_the_same_command_gives_the_same_figures(run, audited, tmp_path, capsys):
    assert (
        main(["audit", "--ckpt_path", str(run), "--output", str(tmp_path / "again"), *QUICK]) == 0
    )
    assert json.loads((tmp_path / "again" / "audit.json").read_text()) == audited
    shown = capsys.readouterr().out
    assert "membership by samples" in shown and "AUROC" in shown
    arguments = ["--seed", "1", "--output", str(tmp_path / "other"), *QUICK]
    assert main(["audit", "--ckpt_path", str(run), *arguments]) == 0
    assert (
        json.loads((tmp_path / "other" / "audit.json").read_text())["attacks"]
        != (audited["attacks"])
    )


def test_the_best_attack_on_a_head_says_what_it_gives_away():
    audit, chance = Audit(), {"mse": 0.08}
    for attack, place, mse in (
        ("optimisation", "head 1, client 0", 0.02),
        ("decoder", "head 1, client 0, when compared", 0.01),
        ("optimisation", "head 2, client 3", 0.12),
        ("optimisation", "head 11, client 0", 0.0),
    ):
        figures = {name: {"mse": mse} for name in ("trained", "untrained")}
        audit.add(attack, "server", place, figures, chance)
    labels = {name: {"accuracy": 1.0} for name in ("trained", "untrained")}
    audit.add("labels", "server", "head 1, client 0", labels, {"accuracy": 0.1})
    assert audit.find_worst_inversion("head 1, client 0") == (0.875, "decoder, when compared")
    assert audit.find_worst_inversion("head 2, client 3") == (0.0, "optimisation")
    assert audit.find_worst_inversion("head 3, client 5") is None


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("FedGan", "no activations of real samples leave a client in this method"),
        ("PooledGan", "samples and labels cross as they are: nothing is left to attack"),
    ],
)
def test_what_does_not_apply_to_a_method_is_named(tmp_path, capsys, method, reason):
    run = fit(
        tmp_path,
        f"--model.method=huscf.methods.{method}",
        "--federation.rule=huscf.federation.OneCluster",
        "--federation.weighting=samples",
    )
    assert main(["audit", "--ckpt_path", str(run), *QUICK]) == 0
    found = json.loads((run / "audit.json").read_text())
    skipped = ("inversion", "labels from activations", "labels from gradients")
    assert {name: found["not_applicable"][name] for name in skipped} == dict.fromkeys(
        skipped, reason
    )
    attacks = {each["attack"] for each in found["attacks"]}
    blocks = "classes from averaged blocks"
    assert attacks - {blocks} == {"membership by samples", "membership by logits"}
    # Where the clients hold no block, there is none of theirs to look at.
    assert (blocks in attacks) == (method == "FedGan") != (blocks in found["not_applicable"])
    assert not (run / "audit.png").exists()
    assert f"not applicable: inversion: {reason}" in capsys.readouterr().out


def test_a_run_s_wire_defends_it_in_the_audit_too(tmp_path):
    wire = ["--model.wire=huscf.wire.DefendedWire", "--model.wire.noise={activations: 100.0}"]
    run = fit(tmp_path, *wire)
    options = [*QUICK, "--inversion_steps", "300"]
    assert main(["audit", "--ckpt_path", str(run), *options]) == 0
    found = json.loads((run / "audit.json").read_text())["attacks"]
    assert all(each["trained"]["ssim"] < 0.3 for each in found if each["attack"] == OPTIMISED)


def test_data_that_have_changed_are_refused_before_anything(run, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    digests = yaml.safe_load((moved / DIGESTS).read_text())
    (moved / DIGESTS).write_text(yaml.safe_dump({**digests, 1: "0" * 24}))
    line = refuse(["audit", "--ckpt_path", str(moved), "--output", str(tmp_path / "out")], capsys)
    assert "belongs to other data: that of 1 clients has changed, of client 1 first" in line
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_data_is_refused(run, tmp_path, capsys):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["huscf_config"].pop("data")
    torch.save(checkpoint, tmp_path / "alone.ckpt")
    given = ["audit", "--ckpt_path", str(tmp_path / "alone.ckpt")]
    assert "lies in no run's folder: say where with --output" in refuse(given, capsys)
    line = refuse(["audit", "--ckpt_path", str(tmp_path / "nope")], capsys)
    assert line.endswith("nope: no such file")
    line = refuse([*given, "--output", str(tmp_path / "out")], capsys)
    assert line.endswith("alone.ckpt: has no data of its own, which an audit needs")


def test_a_checkpoint_may_not_name_other_people_s_data_or_wires(run, tmp_path, capsys):
    for section in ("data", "model"):
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        named = {"class_path": "os.path.join", "init_args": {}}
        if section == "data":
            checkpoint["huscf_config"]["data"] = named
        else:
            checkpoint["huscf_config"]["model"]["wire"] = named
        torch.save(checkpoint, tmp_path / "bad.ckpt")
        given = ["--ckpt_path", str(tmp_path / "bad.ckpt"), "--output", str(tmp_path / "out")]
        assert "names os.path.join, code outside huscf" in refuse(["audit", *given], capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_judged", "3"], "--num_judged is 3, must be >= 10"),
        (["--num_auxiliary", "5"], "--num_auxiliary is 5, must be >= 32"),
        (["--seed", "-1"], "--seed is -1, must be >= 0"),
        (["--decoder_steps", "none"], "invalid int value: 'none'"),
    ],
)
def test_options_that_cannot_be_are_one_line(run, capsys, options, message):
    assert message in refuse(["audit", "--ckpt_path", str(run), *options], capsys)


def test_too_few_samples_are_refused_before_anything_is_attacked(tmp_path, capsys):
    import numpy as np

    stream = np.random.default_rng(0)
    arrays = {
        f"{split}_images": stream.integers(0, 256, (count, 8, 8), np.uint8)
        for split, count in (("train", 40), ("val", 4), ("test", 8))
    }
    labels = {
        f"{split}_labels": np.arange(len(arrays[f"{split}_images"])) % 4
        for split in ("train", "val", "test")
    }
    np.savez(tmp_path / "few.npz", **arrays, **labels)
    data = {
        "class_path": "huscf.datamodules.NpzDataModule",
        "init_args": {
            "root": str(tmp_path),
            "files": {"few": "few.npz"},
            "clients_per_domain": 2,
            "batch_size": 4,
        },
    }
    config = yaml.safe_load(MINI) | {"data": data}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(tmp_path / "few.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    assert main(["fit", *options]) == 0
    line = refuse(["audit", "--ckpt_path", str(tmp_path / "run-1")], capsys)
    assert "domain few has 8 held-out samples, needs 20" in line
    assert not (tmp_path / "run-1" / "audit.json").exists()
