"""Runs as people restart them: which goes on, what may change, who writes, and what is left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.callbacks.run_folder import is_folder_name
from huscf.errors import CheckpointError, HuscfError
from huscf.resuming import find_last_checkpoint, find_newest
from huscf.run_lock import NAME, RunLock
from tests.conftest import REPOSITORY
from tests.test_security import MINI, refuse

DEVICES = REPOSITORY / "configs" / "paper" / "devices.yaml"


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mini.yaml").write_text(MINI)
    return tmp_path


def fit(*options):
    return main(["fit", "--config", "mini.yaml", *options])


def read(run):
    return torch.load(Path("runs") / run / "checkpoints" / "last.ckpt", weights_only=True)


def rounds(run):
    return len((Path("runs") / run / "metrics.csv").read_text().splitlines()) - 1


def make_run(root, name, time_s):
    file = root / name / "checkpoints" / "last.ckpt"
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (time_s, time_s))
    return str(file)


def test_last_is_the_newest_run_of_a_name(tmp_path, capsys):
    small = make_run(tmp_path, "small-1", 100)
    older = make_run(tmp_path, "small-2", 50)
    wide = make_run(tmp_path, "small-wide-1", 200)
    assert find_last_checkpoint(tmp_path, "small") == small
    assert find_last_checkpoint(tmp_path, "small-wide") == wide
    assert find_last_checkpoint(tmp_path) == wide
    Path(small).unlink()
    capsys.readouterr()
    assert find_last_checkpoint(tmp_path, "small") == older
    assert capsys.readouterr().out == f"--ckpt_path last: {older}\n"
    with pytest.raises(
        CheckpointError, match=r"no run of the name medium .* others there: .*small"
    ):
        find_last_checkpoint(tmp_path, "medium")


def test_a_round_whose_last_could_not_be_written_is_the_newest(tmp_path):
    last = Path(make_run(tmp_path, "run-1", 100))
    assert find_newest(tmp_path / "run-1") == last
    for number, time_s in ((1, 90), (2, 110)):
        path = last.with_name(f"round-{number:04d}.ckpt")
        path.touch()
        os.utime(path, (time_s, time_s))
    assert find_last_checkpoint(tmp_path, "run") == str(last.with_name("round-0002.ckpt"))
    last.unlink()
    assert find_newest(tmp_path / "run-1") == last.with_name("round-0002.ckpt")
    assert find_newest(tmp_path) is None


def test_last_goes_on_with_the_run_of_ones_own_name(work, capsys):
    assert fit("--run.name=a") == 0 and fit("--run.name=b") == 0
    assert fit("--run.name=a", "--ckpt_path=last", "--trainer.max_epochs=2") == 0
    assert "--ckpt_path last: runs/a-1/checkpoints/last.ckpt" in capsys.readouterr().out
    assert (rounds("a-1"), rounds("b-1")) == (2, 1)
    Path("b.yaml").write_text("run: {name: b}\n")
    assert main(["predict", "--config", "b.yaml", "--ckpt_path", "last"]) == 0
    assert "runs/b-1/" in capsys.readouterr().out
    assert main(["predict", "--ckpt_path", "last"]) == 0
    assert "runs/a-1/" in capsys.readouterr().out  # the newest of all
    assert main(["generate", "--ckpt_path", "last", "--num_samples", "4", "--output", "out"]) == 0
    assert "runs/a-1/" in capsys.readouterr().out


def test_a_resumed_runs_own_configuration_begins_a_new_run(work):
    assert fit() == 0
    assert fit("--ckpt_path=last", "--trainer.max_epochs=2") == 0
    config = yaml.safe_load(Path("runs/run-1/config.yaml").read_text())
    assert config["ckpt_path"] is None and read("run-1")["huscf_config"]["ckpt_path"] is None
    assert main(["fit", "--config", "runs/run-1/config.yaml"]) == 0
    assert (rounds("run-1"), rounds("run-2")) == (2, 2)


@pytest.mark.parametrize(
    "options", [["--trainer.max_epochs=1"], ["--trainer.max_steps=1", "--trainer.max_epochs=-1"]]
)
def test_a_finished_run_says_so_and_stays_as_it_is(work, capsys, options):
    assert fit() == 0
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert fit("--ckpt_path=last", *options) == 0
    out = capsys.readouterr().out
    assert "nothing is left to do: runs/run-1/checkpoints/last.ckpt has 1 " in out
    assert {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*") if p.is_file()} == before


def test_a_run_that_is_refused_leaves_no_folder(work, capsys):
    assert fit() == 0
    line = refuse(
        ["fit", "--config", "mini.yaml", "--federation.weighting=huscf.federation.FeganWeights"],
        capsys,
    )
    assert "federation.weighting" in line and "HuscfGan lets none cross" in line
    assert [path.name for path in Path("runs").iterdir()] == ["run-1"]
    # What goes on in a folder that was there leaves it there.
    options = ["--ckpt_path=last", "--trainer.max_epochs=2", "--budget.max_simulated_s=1e-9"]
    options.append("--budget.devices=one.yaml")
    device = {"speed_gflops": 1, "uplink_mbit_per_s": 8, "downlink_mbit_per_s": 8}
    assignment = {"counts": {"a": 2}}
    values = {"profiles": {"a": device}, "server": device, "assignment": assignment}
    Path("one.yaml").write_text(yaml.safe_dump(values))
    assert "a single step takes" in refuse(["fit", "--config", "mini.yaml", *options], capsys)
    assert rounds("run-1") == 1 and read("run-1")["huscf"]["num_rounds"] == 1


def test_another_learning_rate_goes_on_where_it_is_asked_for(work, capsys):
    assert fit() == 0
    changed = ["--ckpt_path=last", "--trainer.max_epochs=2", "--model.method.generator_lr=0.25"]
    line = refuse(["fit", "--config", "mini.yaml", *changed], capsys)
    assert "model.method.init_args.generator_lr: 0.0005 -> 0.25" in line and "runs/run-1/" in line
    assert "--allow_changed model.method.init_args.generator_lr" in line
    assert fit(*changed, "--allow_changed", "model.method.generator_lr") == 0
    note = "from round 2 on: model.method.init_args.generator_lr: 0.0005 -> 0.25\n"
    assert note in capsys.readouterr().out
    assert Path("runs/run-1/changes.txt").read_text() == note
    assert read("run-1")["huscf_config"]["model"]["method"]["init_args"]["generator_lr"] == 0.25
    # From now on it is the run's own.
    assert (
        fit("--ckpt_path=last", "--trainer.max_epochs=3", "--model.method.generator_lr=0.25") == 0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.method.generator_lr=1", "--model.method.betas=[0,0]"],
            "model.method.init_args.betas: [0.5, 0.999] -> [0",
        ),
        (
            ["--allow_changed", "model.method.init_args.generator_rl"],
            "did you mean model.method.init_args.generator_lr?",
        ),
        (["--model.method.latent_dim=3", "--allow_changed=model"], "of another network"),
    ],
)
def test_what_is_not_asked_for_is_refused(work, capsys, options, message):
    assert fit() == 0
    allowed = ["--allow_changed", "model.method.generator_lr"] if "rl" not in str(options) else []
    command = ["fit", "--config", "mini.yaml", "--ckpt_path=last", "--trainer.max_epochs=2"]
    assert message in refuse([*command, *allowed, *options], capsys)


def test_changes_are_for_runs_that_go_on(work, capsys):
    command = ["fit", "--config", "mini.yaml", "--allow_changed", "model.method.generator_lr"]
    assert "needs --ckpt_path" in refuse(command, capsys)
    assert "only fit" in refuse(["test", "--ckpt_path=x", "--allow_changed=model"], capsys)


def test_data_that_were_moved_go_on_and_others_do_not(work, capsys):
    import numpy as np

    def save(folder, seed):
        folder.mkdir()
        stream = np.random.default_rng(seed)
        arrays = {}
        for split, count in (("train", 24), ("test", 8)):
            arrays[f"{split}_images"] = stream.integers(0, 255, (count, 8, 8), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(count) % 2
        np.savez(folder / "x.npz", **arrays)

    for number, name in enumerate(("one", "other")):
        save(work / name, number)
    (work / "one").joinpath("x.npz").rename(work / "kept.npz")
    config = yaml.safe_load(MINI)
    arguments = {"files": {"x": "x.npz"}, "clients_per_domain": 2, "batch_size": 4}
    config["data"] = {"class_path": "huscf.datamodules.NpzDataModule", "init_args": arguments}
    Path("mini.yaml").write_text(yaml.safe_dump(config))
    for name in ("first", "second"):
        (work / name).mkdir()
        (work / name / "x.npz").write_bytes((work / "kept.npz").read_bytes())
    assert fit("--data.init_args.root=first") == 0
    options = ["--ckpt_path=last", "--trainer.max_epochs=2"]
    line = refuse(["fit", "--config", "mini.yaml", *options, "--data.init_args.root=other"], capsys)
    assert "belongs to other data" in line and "runs/run-1/" in line
    assert fit(*options, "--data.init_args.root=second") == 0
    assert rounds("run-1") == 2


HOLD = """
import sys, time
from pathlib import Path
from huscf.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def hold(folder):
    """Another process that writes a run."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_that_another_process_writes_is_not_gone_on_with(work, capsys):
    assert fit() == 0
    assert not (Path("runs/run-1") / NAME).exists()
    before = (Path("runs/run-1") / "metrics.csv").read_bytes()
    process = hold("runs/run-1")
    resume = ["fit", "--config", "mini.yaml", "--ckpt_path=last", "--trainer.max_epochs=2"]
    try:
        line = refuse(resume, capsys)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert f"process {process.pid} of " in line and "runs/run-1" in line and " on " in line
    assert (Path("runs/run-1") / "metrics.csv").read_bytes() == before
    assert (Path("runs/run-1") / NAME).exists()  # what a killed process left
    assert main(resume) == 0
    assert not (Path("runs/run-1") / NAME).exists()


def test_a_lock_is_released_once_and_can_be_taken_again(tmp_path):
    first = RunLock(tmp_path)
    holder = json.loads((tmp_path / NAME).read_text())
    assert holder["pid"] == os.getpid() and holder["host"] and holder["since"]
    with pytest.raises(HuscfError, match=f"process {os.getpid()} of"):
        RunLock(tmp_path)
    first.release()
    first.release()
    RunLock(tmp_path).release()
    (tmp_path / NAME).write_text("")  # as a full disk leaves it
    RunLock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_lets_others_go_on(work, capsys, monkeypatch):
    assert fit() == 0
    resume = ["fit", "--config", "mini.yaml", "--ckpt_path=last", "--trainer.max_epochs=2"]
    with monkeypatch.context() as patched:

        def fail(*arguments):
            raise OSError(28, "No space left on device")

        patched.setattr("torch.save", fail)
        capsys.readouterr()
        assert main(resume) == 2
    captured = capsys.readouterr()
    assert "checkpoints/round-0002.ckpt: No space left on device" in captured.err
    assert "rounds saved: 1; go on with:" in captured.out
    assert not list(Path("runs").rglob("*.partial"))
    assert main(resume) == 0
    assert read("run-1")["huscf"]["num_rounds"] == 2


def test_a_run_that_was_ended_before_its_page_is_closed_later(work, capsys, monkeypatch):
    options = ["--samples.every_n_rounds=1", "--report.enabled=true"]
    with monkeypatch.context() as patched:

        def fail(*arguments, **options):
            raise OSError(28, "No space left on device")

        patched.setattr("huscf.callbacks.sample_grid.draw_picture_grid", fail)
        assert fit(*options, "--samples.every_n_rounds=0") == 2
    run = work / "runs" / "run-1"
    assert (run / NAME).exists() and not (run / "report.html").exists()
    capsys.readouterr()
    assert fit(*options, "--ckpt_path=last") == 0
    assert "nothing is left" not in capsys.readouterr().out
    assert (run / "report.html").exists() and (run / "samples" / "digits-final.png").exists()
    assert not (run / NAME).exists() and rounds("run-1") == 1
    assert fit(*options, "--ckpt_path=last") == 0
    assert "nothing is left" in capsys.readouterr().out


def test_torchs_own_word_for_a_full_disk_is_understood(tmp_path, monkeypatch):
    from huscf.checkpoint_io import SafeCheckpointIO

    def fail(*arguments):
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 6202176 vs 6202068")

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        SafeCheckpointIO().save_checkpoint({}, tmp_path / "x.ckpt")
    assert caught.value.filename == str(tmp_path / "x.ckpt") and not list(tmp_path.iterdir())


def test_a_seed_is_drawn_and_saved(work, capsys):
    assert fit("--seed_everything=true") == 0 and fit("--seed_everything=true") == 0
    seeds = []
    for run in ("run-1", "run-2"):
        config = yaml.safe_load((Path("runs") / run / "config.yaml").read_text())
        seeds.append(config["seed_everything"])
        assert config["model"]["seed"] == config["data"]["init_args"]["seed"] == seeds[-1]
        assert type(seeds[-1]) is int
    assert seeds[0] != seeds[1]
    assert (
        fit("--seed_everything", str(seeds[0]), "--ckpt_path=runs/run-1/checkpoints/last.ckpt") == 0
    )


@pytest.mark.parametrize("seed", ["false", "-1", str(2**32), str(2**63)])
def test_a_seed_that_cannot_be_is_refused(work, capsys, seed):
    line = refuse(["fit", "--config", "mini.yaml", f"--seed_everything={seed}"], capsys)
    assert "seed_everything is" in line and "or true, which draws one" in line


@pytest.mark.parametrize("options", [[], ["--trainer.enable_progress_bar=false"]])
def test_another_progress_bar_takes_the_place_of_ours(work, options):
    Path("mini.yaml").write_text(MINI.replace("enable_progress_bar: false, ", ""))
    assert fit("--trainer.callbacks+=lightning.pytorch.callbacks.RichProgressBar", *options) == 0


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\\b", " a", "a\x07", "a:b", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(work, capsys, name):
    assert not is_folder_name(name)
    Path("name.yaml").write_text(yaml.safe_dump({"run": {"name": name}}))
    line = refuse(["fit", "--config", "mini.yaml", "--config", "name.yaml"], capsys)
    assert "run.name is" in line and not Path("runs").exists()


def test_names_of_all_languages_are_folders():
    assert all(map(is_folder_name, ["run", "Łódź", "東京 2", "a-b_c.d"]))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_lacks_signs_and_a_notebooks_backend_do_no_harm(work, encoding):
    environment = {
        **os.environ,
        "PYTHONIOENCODING": encoding,
        "MPLBACKEND": "module://no_such_notebook.backend",
    }
    command = [sys.executable, "-m", "huscf", "fit", "--config", "mini.yaml"]
    options = ["--run.name=Łódź", "--report.enabled=true"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"run folder: runs" in done.stdout and b"d?-1" in done.stdout
    assert (work / "runs" / "Łódź-1" / "report.html").exists()


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, ("huscf", "run-1")),
        (None, {"WANDB_PROJECT": "theirs", "WANDB_NAME": "night"}, ("theirs", "night")),
        ("mine", {"WANDB_PROJECT": "theirs"}, ("mine", "run-1")),
    ],
)
def test_wandbs_environment_wins_over_our_defaults(
    tmp_path, monkeypatch, given, environment, expected
):
    from huscf.callbacks import WandbLog

    opened = {}
    monkeypatch.setattr(
        "huscf.callbacks.wandb_log.WandbLogger", lambda **given: opened.update(given)
    )
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    log = WandbLog(project=given)
    log._open(tmp_path / "run-1")
    log._restore_environment()
    assert (opened["project"], opened["name"]) == expected


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["check-data", "--config", "mini.yaml"],
        ["plan", "--config", str(DEVICES), "--strategy", "uniform"],
    ],
)
def test_whoever_reads_the_output_may_have_enough(work, command):
    process = subprocess.Popen(
        [sys.executable, "-m", "huscf", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # as head does, once it has its lines
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) != 0
    assert error == b""


def test_a_run_in_which_nobody_learns_any_more_ends_as_failed(work, capsys):
    diverge = ["--model.method.generator_lr=1e30", "--model.on_nonfinite=drop"]
    assert fit("--trainer.max_epochs=9", *diverge) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "round 2: no loss of any client in any step was finite" in error
    assert "runs/run-1/checkpoints/last.ckpt" in error and "learning rates" in error
    assert read("run-1")["huscf"]["num_rounds"] == 1
