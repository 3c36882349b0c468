"""The command line as a user meets it: runs, resumes, and says what is wrong."""

import csv
import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback

from huscf.__main__ import COMMANDS, main
from huscf.nested_values import flatten
from huscf.randomness import make_rng
from huscf.reporting.federation_history import by_round, read_federation
from tests.conftest import REPOSITORY

QUICKSTART = str(REPOSITORY / "configs" / "quickstart.yaml")
SPLITS = ("train", "test")
SMALL = [
    "--model.method.init_args.generator.init_args.width=4",
    "--model.method.init_args.discriminator.init_args.width=4",
    "--data.init_args.clients_per_domain=2",
    "--data.init_args.samples_per_client=12",
    "--data.init_args.batch_size=6",
    "--federation.every_n_epochs=1",
    "--samples.every_n_rounds=0",
    "--evaluation.every_n_rounds=-1",
    "--report.enabled=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
]


def fit(root, *options, small=SMALL):
    arguments = ["fit", "--config", QUICKSTART, *small, f"--trainer.default_root_dir={root}"]
    return main([*arguments, *options])


def checkpoint(path):
    return torch.load(path, weights_only=True)


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def differences(one, other, path=""):
    """Paths at which two nested values differ."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path} keys"]
        return [d for k in one for d in differences(one[k], other[k], f"{path}.{k}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path} length"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}[{i}]")]
    return [] if one == other else [f"{path}: {one} != {other}"]


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory):
    """A finished run of two rounds."""
    root = tmp_path_factory.mktemp("runs")
    assert fit(root, "--trainer.max_epochs=2") == 0
    return root / "quickstart-1"


def test_a_run_leaves_its_folder(two_rounds):
    found = {str(p.relative_to(two_rounds)) for p in two_rounds.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "data_digests.yaml",
        "partition.yaml",
        "plan.yaml",
        "metrics.csv",
        "samples/digits-final.png",
        "samples/negatives-final.png",
        "checkpoints/last.ckpt",
        "checkpoints/round-0001.ckpt",
        "checkpoints/round-0002.ckpt",
    } <= found
    table = rows(two_rounds)
    assert [row["round"] for row in table] == ["1", "2"]
    assert {"federation/ari", "train/generator_loss", "train/discriminator_loss"} <= set(table[0])
    config = yaml.safe_load((two_rounds / "config.yaml").read_text())
    assert config["model"]["method"]["init_args"]["generator"]["init_args"]["width"] == 4
    assert config["data"]["init_args"]["seed"] == config["seed_everything"] == 0
    partition = yaml.safe_load((two_rounds / "partition.yaml").read_text())
    assert [c["domain"] for c in partition["clients"]] == ["digits"] * 2 + ["negatives"] * 2
    assert all(len(c["indices"]) == c["num_samples"] == 12 for c in partition["clients"])


def test_two_rounds_equal_one_round_and_a_resumed_one_bit_for_bit(two_rounds, tmp_path):
    assert fit(tmp_path, "--trainer.max_epochs=1") == 0
    assert fit(tmp_path, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    resumed = tmp_path / "quickstart-1"
    assert [p.name for p in tmp_path.iterdir()] == ["quickstart-1"]
    one, other = (checkpoint(f / "checkpoints" / "last.ckpt") for f in (two_rounds, resumed))
    for part in ("state_dict", "huscf", "global_step", "epoch"):
        assert differences(one[part], other[part], part) == []
    columns = [k for k in rows(resumed)[0] if k != "seconds"]
    pairs = zip(rows(two_rounds), rows(resumed), strict=True)
    for expected, got in pairs:
        assert {k: expected[k] for k in columns} == {k: got[k] for k in columns}


def test_resuming_in_the_middle_of_an_epoch_is_bit_exact_too(tmp_path, capsys):
    options = ["--data.init_args.steps_per_epoch=4", "--trainer.max_epochs=2"]
    saver = [
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        f"--trainer.callbacks.dirpath={tmp_path / 'steps'}",
        "--trainer.callbacks.every_n_train_steps=1",
        "--trainer.callbacks.save_top_k=-1",
        "--trainer.callbacks.filename={step}",
    ]
    assert fit(tmp_path / "a", *options, *saver) == 0
    middle = tmp_path / "steps" / "step=3.ckpt"
    assert fit(tmp_path / "b", *options, *saver, f"--ckpt_path={middle}") == 0
    one, other = (
        checkpoint(tmp_path / x / "quickstart-1" / "checkpoints" / "last.ckpt") for x in "ab"
    )
    for part in ("state_dict", "huscf", "global_step"):
        assert differences(one[part], other[part], part) == []
    for expected, got in zip(*(rows(tmp_path / x / "quickstart-1") for x in "ab"), strict=True):
        assert {**expected, "seconds": None} == {**got, "seconds": None}
    # Lightning would go on with the next epoch, and the first round's federation be lost.
    capsys.readouterr()
    last = tmp_path / "steps" / "step=4.ckpt"
    assert fit(tmp_path / "c", *options, *saver, f"--ckpt_path={last}") == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "after an epoch's last step" in message and "last.ckpt" in message


def test_resuming_inside_a_round_leaves_the_same_rows(tmp_path):
    options = ["--federation.every_n_epochs=3", "--trainer.max_epochs=3"]
    saver = [
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        f"--trainer.callbacks.dirpath={tmp_path / 'epochs'}",
        "--trainer.callbacks.save_top_k=-1",
        "--trainer.callbacks.filename={epoch}",
    ]
    assert fit(tmp_path / "a", *options, *saver) == 0
    first = tmp_path / "epochs" / "epoch=0.ckpt"
    assert fit(tmp_path / "b", *options, f"--ckpt_path={first}") == 0
    (one,), (other,) = (rows(tmp_path / x / "quickstart-1") for x in "ab")
    one.pop("seconds"), other.pop("seconds")
    assert one == other


def test_clients_that_stay_away_for_a_round_do_not_change_and_count_nothing(tmp_path):
    options = ["--data.init_args.participation=0.5", "--data.init_args.steps_per_epoch=2"]
    assert fit(tmp_path / "whole", "--trainer.max_epochs=4", *options) == 0
    assert fit(tmp_path / "parts", "--trainer.max_epochs=2", *options) == 0
    assert fit(tmp_path / "parts", "--trainer.max_epochs=4", *options, "--ckpt_path=last") == 0
    one, other = (
        checkpoint(tmp_path / x / "quickstart-1" / "checkpoints" / "last.ckpt")
        for x in ("whole", "parts")
    )
    for part in ("state_dict", "huscf"):
        assert differences(one[part], other[part], part) == []
    rounds = by_round(read_federation(tmp_path / "whole" / "quickstart-1" / "federation.csv"))
    # Who takes part in an epoch, here a round, follows from the seed and the epoch alone.
    draws = (make_rng(0, "participation", epoch) for epoch in range(4))
    present = [set(rng.choice(4, 2, replace=False).tolist()) for rng in draws]
    assert set.union(*present) == set(range(4))
    for each, clients in zip(rounds.values(), present, strict=True):
        active = {row.cluster for row in each if row.client in clients}
        for row in each:
            if row.cluster in active:
                assert (row.weight > 0) == (row.client in clients)


def test_a_client_that_was_never_seen_is_in_no_cluster_of_the_closing_table(tmp_path, capsys):
    options = ["--data.init_args.first_epochs={3: 2}", "--trainer.max_epochs=1"]
    assert fit(tmp_path, *options) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "not seen yet" in line)
    assert row.split()[4:6] == ["│", "3"]


def test_a_client_that_joins_gets_the_average_of_its_domain_on_its_first_day(tmp_path):
    options = ["--data.init_args.first_epochs={3: 2}", "--data.init_args.last_epochs={0: 2}"]
    assert fit(tmp_path, "--trainer.max_epochs=4", *options) == 0
    rounds = by_round(read_federation(tmp_path / "quickstart-1" / "federation.csv"))
    weights = [{row.client: row.weight for row in each} for each in rounds.values()]
    clusters = [{row.client: row.cluster for row in each} for each in rounds.values()]
    counted = [sorted(c for c in each if each[c]) for each in weights]
    assert counted[2:] == [[0, 1, 2, 3], [1, 2, 3]]
    # Client 3 is of the domain of client 2; before it has been seen it is in nobody's cluster.
    assert clusters[0][3] not in {clusters[0][c] for c in (0, 1, 2)}
    assert clusters[2][3] == clusters[2][2] == clusters[3][3]
    assert clusters[3][0] == clusters[2][0]


@pytest.mark.parametrize("end", ["--trainer.max_epochs=3", "--trainer.max_steps=5"])
def test_the_last_steps_are_federated_evaluated_and_saved_in_whatever_round_they_are(tmp_path, end):
    options = [
        "--data.init_args.steps_per_epoch=2",
        "--federation.every_n_epochs=2",
        "--evaluation.every_n_rounds=0",
        "--evaluation.num_per_class=2",
    ]
    assert fit(tmp_path, end, *options) == 0
    table = rows(tmp_path / "quickstart-1")
    steps = 5 if "steps" in end else 6
    assert [row["step"] for row in table] == ["4", str(steps)]
    assert [bool(row["eval/digits/generation_score"]) for row in table] == [False, True]
    folder = tmp_path / "quickstart-1" / "checkpoints"
    saved = {p.name: checkpoint(p)["global_step"] for p in folder.iterdir()}
    assert saved == {"round-0001.ckpt": 4, "round-0002.ckpt": steps, "last.ckpt": steps}


class StopAfterThreeSteps(Callback):
    """Asks the trainer to stop, as Lightning's Timer does."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step >= 3


def test_a_run_that_is_asked_to_stop_ends_its_round(tmp_path):
    config = tmp_path / "stop.yaml"
    # One callback, not a list of them, is legal too.
    callback = {"class_path": "tests.test_cli.StopAfterThreeSteps"}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": callback}}))
    options = ["--federation.every_n_epochs=5", "--data.init_args.steps_per_epoch=2"]
    assert fit(tmp_path / "runs", "--config", str(config), *options) == 0
    folder = tmp_path / "runs" / "quickstart-1"
    assert [row["step"] for row in rows(folder)] == ["3"]
    assert checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 3


class InterruptAtStep(Callback):
    """Sends this process a signal after so many steps."""

    def __init__(self, signal_name: str, step: int) -> None:
        self.signal_name = signal_name
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), getattr(signal, self.signal_name))


@pytest.mark.parametrize(("signal_name", "code"), [("SIGINT", 1), ("SIGTERM", 143)])
def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path, capsys, signal_name, code):
    config = tmp_path / "interrupt.yaml"
    root = tmp_path / "runs"
    options = ["--config", str(config), "--data.init_args.steps_per_epoch=2"]
    interrupt = {"class_path": "tests.test_cli.InterruptAtStep"}
    # Ignored where the tests run in the background, and by Lightning from the first on.
    handler = signal.getsignal(signal.SIGINT)
    try:
        for step in (1, 3):
            interrupt["init_args"] = {"signal_name": signal_name, "step": step}
            config.write_text(yaml.safe_dump({"trainer": {"callbacks": interrupt}}))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with pytest.raises(SystemExit) as stopped:
                fit(root, *options)
            assert stopped.value.code == code
    finally:
        signal.signal(signal.SIGINT, handler)
    lines = capsys.readouterr().out.splitlines()
    assert "interrupted before a first round was saved" in lines
    assert "interrupted; rounds saved: 1; go on with:" in lines
    command = shlex.split(lines[-1])
    assert command[:2] == ["huscf", "fit"]
    assert main([*command[1:], "--trainer.max_epochs=2", "--trainer.callbacks=null"]) == 0
    assert [row["step"] for row in rows(root / "quickstart-2")] == ["2", "4"]


def test_a_run_resumed_under_another_spelling_of_its_path_replaces_its_last_checkpoint(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert fit("runs", "--trainer.max_epochs=1") == 0
    last = tmp_path / "runs" / "quickstart-1" / "checkpoints" / "last.ckpt"
    assert fit("runs", "--trainer.max_epochs=3", f"--ckpt_path={last}") == 0
    names = {p.name for p in last.parent.iterdir()}
    assert names == {"last.ckpt", "round-0002.ckpt", "round-0003.ckpt"}
    assert checkpoint(last)["huscf"]["num_rounds"] == 3


def test_a_run_goes_on_in_its_folder_from_inside_it(two_rounds, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "quickstart-1"
    shutil.copytree(two_rounds, folder)
    monkeypatch.chdir(folder / "checkpoints")
    assert fit("runs", "--trainer.max_epochs=3", "--ckpt_path=last.ckpt") == 0
    assert [row["round"] for row in rows(folder)] == ["1", "2", "3"]
    assert not Path("runs").exists()


def test_resuming_elsewhere_leaves_the_files_there(two_rounds, tmp_path):
    (tmp_path / "saved").mkdir()
    last = Path(shutil.copy(two_rounds / "checkpoints" / "last.ckpt", tmp_path / "saved"))
    (tmp_path / "config.yaml").write_text("# mine\n")
    assert fit(tmp_path / "runs", "--trainer.max_epochs=3", f"--ckpt_path={last}") == 0
    assert (tmp_path / "config.yaml").read_text() == "# mine\n"
    assert {p.name for p in tmp_path.iterdir()} == {"saved", "config.yaml", "runs"}
    assert len(rows(tmp_path / "runs" / "quickstart-1")) == 3


def save_pictures(path, seed):
    stream = np.random.default_rng(seed)
    pictures = {f"{s}_images": stream.integers(0, 256, (40, 8, 8), np.uint8) for s in SPLITS}
    labels = {f"{s}_labels": np.arange(40) % 4 for s in SPLITS}
    np.savez(path, **pictures, **labels)


def test_resuming_with_other_data_names_the_clients(tmp_path, capsys):
    save_pictures(tmp_path / "ours.npz", seed=0)
    data = {
        "class_path": "huscf.datamodules.NpzDataModule",
        "init_args": {
            "root": str(tmp_path),
            "files": {"ours": "ours.npz"},
            "clients_per_domain": 2,
            "batch_size": 6,
        },
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    small = [option for option in SMALL if not option.startswith("--data")]
    options = ["--config", str(tmp_path / "data.yaml")]
    root = tmp_path / "runs"
    assert fit(root, *options, "--trainer.max_epochs=1", small=small) == 0
    manifest = root / "quickstart-1" / "partition.yaml"
    before = manifest.read_bytes()
    saved = checkpoint(root / "quickstart-1" / "checkpoints" / "last.ckpt")
    digests = yaml.safe_load((root / "quickstart-1" / "data_digests.yaml").read_text())
    assert digests.keys() == {0, 1} and len(set(digests.values())) == 2
    # Whoever has a checkpoint and data cannot find out by a hash whether they belong together.
    assert "client_digests" not in saved["huscf_data"]
    assert not set(digests.values()) & set(map(str, flatten(saved).values()))
    save_pictures(tmp_path / "ours.npz", seed=1)
    resume = [*options, "--trainer.max_epochs=2", "--ckpt_path=last"]
    assert fit(root, *resume, small=small) == 2
    error = capsys.readouterr().err
    assert "other data: that of 2 clients has changed, of client 0 first" in error
    assert manifest.read_bytes() == before
    save_pictures(tmp_path / "ours.npz", seed=0)
    assert fit(root, *resume, small=small) == 0
    assert len(rows(root / "quickstart-1")) == 2


def test_a_domain_that_is_added_joins_the_run_that_goes_on(tmp_path, capsys):
    save_pictures(tmp_path / "a.npz", seed=0)
    save_pictures(tmp_path / "b.npz", seed=1)
    small = [option for option in SMALL if not option.startswith("--data")]

    def train(files, *options):
        arguments = {
            "root": str(tmp_path),
            "files": files,
            "batch_size": 6,
            "clients_per_domain": 2,
        }
        data = {"class_path": "huscf.datamodules.NpzDataModule", "init_args": arguments}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
        configs = ["--config", str(tmp_path / "data.yaml")]
        return fit(tmp_path / "runs", *configs, *options, small=small)

    one, both = {"a": "a.npz"}, {"a": "a.npz", "b": "b.npz"}
    assert train(one, "--trainer.max_epochs=2") == 0
    on = ["--trainer.max_epochs=4", "--ckpt_path=last"]
    assert train(both, *on) == 2
    assert "--allow_changed data.init_args.files" in capsys.readouterr().err
    assert train(both, *on, "--allow_changed", "data.files") == 0
    assert "clients that join the run: 2, 3" in capsys.readouterr().out
    rounds = by_round(read_federation(tmp_path / "runs" / "quickstart-1" / "federation.csv"))
    assert [sorted(row.client for row in each) for each in rounds.values()] == [
        *[[0, 1]] * 2,
        *[[0, 1, 2, 3]] * 2,
    ]
    last = {row.client: row for row in rounds[4]}
    assert all(row.weight > 0 for row in last.values())
    # It goes on from there without being asked twice, and nobody may be missing.
    assert train(both, "--trainer.max_epochs=5", "--ckpt_path=last") == 0
    assert train(one, "--trainer.max_epochs=6", "--ckpt_path=last", "--allow_changed", "data") == 2
    assert "of client 2 first" in capsys.readouterr().err


def test_where_nothing_tells_whether_data_changed_that_is_said(two_rounds, tmp_path, capsys):
    (tmp_path / "saved").mkdir()
    last = shutil.copy(two_rounds / "checkpoints" / "last.ckpt", tmp_path / "saved")
    assert fit(tmp_path / "runs", "--trainer.max_epochs=3", f"--ckpt_path={last}") == 0
    note = "last.ckpt: lies in no run's folder, so nothing tells whether the data changed"
    assert note in capsys.readouterr().out


def test_digests_in_checkpoints_of_earlier_versions_still_count(two_rounds, tmp_path, capsys):
    saved = checkpoint(two_rounds / "checkpoints" / "last.ckpt")
    saved["huscf_data"]["client_digests"] = {client: "other" for client in range(4)}
    torch.save(saved, tmp_path / "older.ckpt")
    options = ["--trainer.max_epochs=3", f"--ckpt_path={tmp_path / 'older.ckpt'}"]
    assert fit(tmp_path / "runs", *options) == 2
    assert "other data: that of 4 clients has changed" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1, 2]", "{1: "])
def test_damaged_digests_are_one_line(two_rounds, tmp_path, capsys, content):
    run = tmp_path / "runs" / "quickstart-1"
    shutil.copytree(two_rounds, run)
    (run / "data_digests.yaml").write_text(content)
    assert fit(tmp_path / "runs", "--trainer.max_epochs=3", "--ckpt_path=last") == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "data_digests.yaml: " in line and line.endswith("remove it to go on without")


def test_clients_that_left_stay_away_when_one_with_more_data_joins(tmp_path):
    save_pictures(tmp_path / "a.npz", seed=0)
    save_pictures(tmp_path / "b.npz", seed=1)
    small = [option for option in SMALL if not option.startswith("--data")]

    def train(files, epochs, *options):
        arguments = {"root": str(tmp_path), "files": files, "last_epochs": {1: 1}}
        arguments |= {"batch_size": 6, "clients_per_domain": [2, 1][: len(files)]}
        data = {"class_path": "huscf.datamodules.NpzDataModule", "init_args": arguments}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
        given = ["--config", str(tmp_path / "data.yaml"), f"--trainer.max_epochs={epochs}"]
        return fit(tmp_path / "runs", *given, *options, small=small)

    assert train({"a": "a.npz"}, 4) == 0
    on = ["--ckpt_path=last", "--allow_changed", "data"]
    assert train({"a": "a.npz", "b": "b.npz"}, 6, *on) == 0
    run = tmp_path / "runs" / "quickstart-1"
    # Client 2 has twice the data, and an epoch has the steps that it had.
    steps = [int(row["step"]) for row in rows(run)]
    assert steps == [steps[0] * number for number in range(1, 7)]
    rounds = by_round(read_federation(run / "federation.csv"))
    weights = [{row.client: row.weight for row in each} for each in rounds.values()]
    assert [each[1] > 0 for each in weights] == [True, True, False, False, False, False]
    assert weights[5][2] > 0


def test_clients_join_only_where_it_is_known_who_the_others_are(tmp_path, capsys):
    save_pictures(tmp_path / "a.npz", seed=0)
    save_pictures(tmp_path / "b.npz", seed=1)
    small = [option for option in SMALL if not option.startswith("--data")]

    def train(files, *options):
        arguments = {"root": str(tmp_path), "files": files, "batch_size": 6}
        arguments["clients_per_domain"] = 2
        data = {"class_path": "huscf.datamodules.NpzDataModule", "init_args": arguments}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}, sort_keys=False))
        given = ["--config", str(tmp_path / "data.yaml"), *options]
        return fit(tmp_path / "runs", *given, small=small)

    assert train({"a": "a.npz"}, "--trainer.max_epochs=1") == 0
    last = tmp_path / "runs" / "quickstart-1" / "checkpoints" / "last.ckpt"
    (tmp_path / "saved").mkdir()
    alone = shutil.copy(last, tmp_path / "saved")
    on = ["--trainer.max_epochs=2", "--allow_changed", "data.files"]
    for files in ({"b": "b.npz", "a": "a.npz"}, {"a": "a.npz", "b": "b.npz"}):
        assert train(files, *on, f"--ckpt_path={alone}") == 2
        assert "nothing tells that clients 2, 3 are the new ones" in capsys.readouterr().err
    # In the run's own folder a domain that is put before the others is refused by its data.
    assert train({"b": "b.npz", "a": "a.npz"}, *on, f"--ckpt_path={last}") == 2
    assert "of client 0 first" in capsys.readouterr().err


class Payload:
    """Would write a file when unpickled."""

    def __reduce__(self):
        return Path.write_text, (Path("unpickled"), "harm")


def flip_bytes(path):
    """Change some bytes in the middle of the largest record, as a failing disk does."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    content = bytearray(path.read_bytes())
    start = largest.header_offset + 1000 + largest.file_size // 2
    content[start : start + 8] = bytes(255 - value for value in content[start : start + 8])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_bytes, "does not have its checksum"),
        (lambda path: torch.save({"huscf": Payload()}, path), "other objects than tensors"),
        (lambda path: torch.save({"huscf": {}}, path), "it lacks state_dict"),
        (
            lambda path: torch.save({"huscf": {"format": 2}, "state_dict": {}}, path),
            "it lacks callbacks, epoch, global_step, loops",
        ),
    ],
)
def test_damaged_and_foreign_checkpoints_are_one_line(
    two_rounds, tmp_path, capsys, monkeypatch, damage, message
):
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copy(two_rounds / "checkpoints" / "last.ckpt", tmp_path))
    damage(path)
    assert fit("runs", "--trainer.max_epochs=3", f"--ckpt_path={path}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "weights_only" not in line
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_or_a_folder_that_may_not_be_written_is_one_line(
    two_rounds, capsys, monkeypatch
):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "there/report.html")

    monkeypatch.setattr("huscf.reporting.write_page", refuse)
    assert main(["report", str(two_rounds)]) == 2
    assert capsys.readouterr().err == "huscf: error: there/report.html: Permission denied\n"


def test_a_truncated_checkpoint_is_refused_and_the_previous_one_works(tmp_path, capsys):
    assert fit(tmp_path, "--trainer.max_epochs=2") == 0
    folder = tmp_path / "quickstart-1" / "checkpoints"
    last = folder / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert fit(tmp_path, "--trainer.max_epochs=3", f"--ckpt_path={last}") == 2
    error = capsys.readouterr().err
    assert f"checkpoint {last}: damaged" in error
    assert str(folder / "round-0002.ckpt") in error
    previous = folder / "round-0001.ckpt"  # round-0002.ckpt is the same file by another name
    assert fit(tmp_path, "--trainer.max_epochs=3", f"--ckpt_path={previous}") == 0
    assert [row["round"] for row in rows(tmp_path / "quickstart-1")] == ["1", "2", "3"]


def test_resuming_with_other_hyper_parameters_prints_the_differences(two_rounds, tmp_path, capsys):
    last = two_rounds / "checkpoints" / "last.ckpt"
    before = (two_rounds / "metrics.csv").read_bytes()
    options = [
        "--trainer.max_epochs=3",
        "--model.method.init_args.generator_lr=0.1",
        f"--ckpt_path={last}",
    ]
    assert fit(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert "model.method.init_args.generator_lr: 0.001 -> 0.1" in error
    assert (two_rounds / "metrics.csv").read_bytes() == before


def test_a_second_run_gets_its_own_folder(two_rounds):
    before = (two_rounds / "metrics.csv").read_bytes()
    assert fit(two_rounds.parent, "--trainer.max_epochs=1") == 0
    assert (two_rounds.parent / "quickstart-2" / "metrics.csv").exists()
    assert (two_rounds / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.plan.init_args.profiles={a: [1, 1, 1, 4]}"],
            "client 0: discriminator_head 1 + discriminator_tail 4 leave the server no block",
        ),
        (["--model.plan.init_args.profiles={a: [0, 1, 1, 1]}"], "generator_head is 0"),
        (["--data.init_args.clients_per_domain=2000"], "2000 clients for 1442 samples"),
        (["--data.init_args.samples_per_client=1"], "client 0 (digits) has 1 samples, needs at"),
        (["--model.method.init_args.generator.init_args.depth=3"], "depth 3 is too small"),
        (["--ckpt_path=nowhere.ckpt"], "checkpoint nowhere.ckpt: no such file"),
        (["--ckpt_path=last"], "with a checkpoint below"),
        (["--trainer.gradient_clip_val=1"], "trainer.gradient_clip_val: 1 is not supported"),
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches: 2 is not"),
        (["--trainer.barebones=true"], "a run needs its callbacks"),
        (["--trainer.precision=16-mixed"], "trainer.precision: 16-mixed needs loss scaling"),
        (
            [
                "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
                "--trainer.callbacks.save_top_k=-5",
            ],
            "refused: Invalid value for save_top_k=-5",
        ),
        (["--trainer.callbacks+=DeviceStatsMonitor"], "Cannot use `DeviceStatsMonitor`"),
        (["--federation.every_n_epochs=0"], "federation.every_n_epochs is 0"),
        (["--federation.server={discriminator: [4]}"], "the discriminator has no server block 4"),
        (
            ["--model.method.init_args.generator_lr=-1"],
            "method.generator_lr is -1.0, must be a finite",
        ),
        (["--data.init_args.batch_size=1"], "client 0 has batches of one sample"),
        (["--model.plan.init_args.assignment={99: phone}"], "not in the run: clients [99]"),
        (["--data.init_args.batch_size=0"], "data.batch_size is 0, must be >= 1"),
        (
            [
                "--federation.rule=huscf.federation.KMeansClusters",
                "--federation.rule.num_clusters=0",
            ],
            "num_clusters is 0, must be at least 1",
        ),
        (
            ["--model.plan=huscf.planning.SearchedPlan", "--model.plan.devices=nosuch.yaml"],
            "nosuch.yaml",
        ),
        (
            [
                "--data.init_args.partitioner=huscf.datamodules.DirichletPartitioner",
                "--data.init_args.partitioner.init_args.alpha=-1",
            ],
            "alpha is -1",
        ),
        (["--trainer.precision=bf16-true"], "trainer.precision: bf16-true is not supported"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, capsys, options, message):
    assert fit(tmp_path / "runs", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("huscf: error:")]) == 1
    assert not list((tmp_path / "runs").glob("*/metrics.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.server_gradients=uniform"],
            "did you mean model.server_gradient?; allowed in model: method, plan, wire",
        ),
        (
            ["--model.method.init_args.generator_lr_=1"],
            "Option 'generator_lr_' is not accepted; HuscfGan takes: generator, discriminator",
        ),
        (
            ["--model.method.init_args.generatr.init_args.width=4"],
            "HuscfGan takes: generator, discriminator",
        ),
        (
            ["--model.method=huscf.methods.Nothing"],
            "there is no huscf.methods.Nothing; did you mean",
        ),
        (
            ["--federation.wieghting=kld"],
            "allowed in federation: every_n_epochs, observe, observed_samples, statistics_noise",
        ),
        (["--trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
        (["--data.init_args.batchsize=3"], "DigitsDataModule takes: root, clients_per_domain"),
        (
            ["--model.method.init_args.generator.init_args.widht=3"],
            "ConditionalGenerator takes: shape, latent_dim",
        ),
        (["--federation.weighting=kl"], "is kl, must be one of kld, samples, uniform"),
        (["--model.on_nonfinite=ignore"], "must be one of stop, drop"),
        (["--data.class_path=huscf.datamodules.Nothing"], "Nothing"),
        (
            ["--data=huscf.datamodules.FileDataModule"],
            "error: data: huscf.datamodules.FileDataModule must define describe_reading, "
            "list_sources, read_sample",
        ),
        (
            ["--data.init_args.partitioner=huscf.datamodules.Partitioner"],
            "error: partitioner: huscf.datamodules.Partitioner must define partition",
        ),
    ],
)
def test_unknown_keys_and_values_are_named_with_what_is_allowed(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as exit_info:
        fit(tmp_path, *options)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


METHOD_KEYS = (
    *("generator", "discriminator", "latent_dim", "loss", "generator_lr", "discriminator_lr"),
    *("betas", "mismatched_weight", "mismatched_steps", "weight_std", "ema_decay"),
)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        *((key, f"is now model.method.init_args.{key}") for key in METHOD_KEYS),
        ("exchange", "is now model.wire"),
        ("server_normalization", "is no longer there: every client is normalised alone"),
    ],
)
def test_keys_of_earlier_versions_are_refused_with_their_new_name(tmp_path, capsys, key, message):
    config, nested = tmp_path / "old.yaml", {"class_path": "a.b", "init_args": {"width": 4}}
    config.write_text(yaml.safe_dump({"model": {key: nested}}))
    for options in (
        [f"--model.{key}=1"],
        [f"--model.{key}", "1"],
        [f"--model.{key}.init_args.width=4"],
        ["--config", str(config)],
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(["fit", "--config", QUICKSTART, *options])
        assert exit_info.value.code == 2
        assert capsys.readouterr().err == f"huscf: error: model.{key} {message}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["old.yaml"]


def test_a_similar_key_is_not_taken_for_one_of_an_earlier_version(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--config", QUICKSTART, "--model.losses=1"])
    assert "unrecognized arguments: --model.losses=1" in capsys.readouterr().err


def test_an_unwritable_run_folder_is_named(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert fit(blocked) == 2
    assert f"cannot write below {blocked}" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys, huscf.__main__ as m; m.main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    assert "\n  huscf fit --model.method.help huscf.methods.HuscfGan\n" in done.stdout


def test_the_help_of_a_method_lists_its_options(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["fit", "--model.method.help", "huscf.methods.HuscfGan"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert all(f"--model.method.{key} " in out for key in METHOD_KEYS)


def test_python_m_and_unknown_command():
    done = subprocess.run(
        [sys.executable, "-m", "huscf", "train"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no command 'train'; there are fit, validate" in done.stderr


def test_shipped_configs_name_no_machine_folder():
    for path in Path(REPOSITORY / "configs").rglob("*.yaml"):
        values = yaml.safe_dump(yaml.safe_load(path.read_text()))
        assert not any(mark in values for mark in ("root:", "../", "/home", "/tmp")), path


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_sigterm_ends_a_command_in_order(command, monkeypatch):
    """As an exception, so that what is half written is removed again."""
    undone = []

    def be_told_to_end(*arguments):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            undone.append(command)
        raise AssertionError("went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("huscf.commands.run_command", be_told_to_end)
    monkeypatch.setattr("huscf.planning.command.main", be_told_to_end)
    with pytest.raises(SystemExit) as end:
        main([command])
    assert end.value.code == 143 and undone == [command]
    assert signal.getsignal(signal.SIGTERM) is before
