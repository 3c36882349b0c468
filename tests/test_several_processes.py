"""`huscf fit` on several processes: the files of one process, and one line where it fails."""

import os
import subprocess
import sys

import pytest

from tests.test_cli import QUICKSTART, SMALL, checkpoint, differences, fit, rows

OPTIONS = [
    *(option for option in SMALL if "clients_per_domain" not in option),
    "--data.init_args.clients_per_domain=3",
    "--data.init_args.participation=0.7",
    "--model.method.init_args.ema_decay=0.9",
    "--training.num_threads=1",
]


def fit_on(root, num_processes, *options):
    """Run the command line as a user does; Lightning starts the other processes."""
    command = [sys.executable, "-m", "huscf", "fit", "--config", QUICKSTART, *OPTIONS]
    command += [f"--trainer.default_root_dir={root}", f"--trainer.devices={num_processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=120, env=environment
    )


def assert_same_files(one, other):
    assert (one / "federation.csv").read_bytes() == (other / "federation.csv").read_bytes()
    for row, same in zip(rows(one), rows(other), strict=True):
        assert {**row, "seconds": ""} == {**same, "seconds": ""}
    names = [{p.relative_to(folder) for p in folder.rglob("*")} for folder in (one, other)]
    assert names[0] == names[1]
    saved = [checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (one, other)]
    for part in ("state_dict", "huscf", "loops", "huscf_data"):
        assert not differences(saved[0][part], saved[1][part])


def test_two_processes_leave_the_files_of_one_and_one_goes_on_with_them(tmp_path):
    """It starts Python anew; the engine's own tests, in threads, are where cases are told apart."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert fit(one, "--trainer.max_epochs=2", small=OPTIONS) == 0
    run = fit_on(two, 2, "--trainer.max_epochs=1")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("run folder:") == 1
    assert fit(two, "--trainer.max_epochs=2", "--ckpt_path=last", small=OPTIONS) == 0
    assert_same_files(one / "quickstart-1", two / "quickstart-1")


def test_a_nan_in_any_process_is_one_line(tmp_path):
    """It starts Python anew: who prints is a matter of processes."""
    rates = [f"--model.method.init_args.{name}_lr=1e30" for name in ("generator", "discriminator")]
    run = fit_on(tmp_path, 2, "--trainer.max_epochs=2", *rates)
    assert run.returncode == 2
    lines = [line for line in run.stderr.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("huscf: error: client ") and lines[0].endswith("hold NaN or Inf")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.strategy=ddp_spawn"], "trainer.strategy: 'ddp_spawn' does not know how"),
        (["--seed_everything=true"], "seed_everything: every process would draw its own"),
    ],
)
def test_what_several_processes_cannot_do_is_one_line_before_they_start(
    tmp_path, capsys, options, message
):
    assert fit(tmp_path / "runs", "--trainer.devices=2", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()
