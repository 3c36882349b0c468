"""Training that stops by a figure of the rounds."""

from pathlib import Path

import pytest
import yaml

from huscf.callbacks import ClusteredFederation
from huscf.errors import HuscfError
from tests.test_cli import checkpoint, fit, rows

ROUNDS = ["--data.init_args.steps_per_epoch=1", "--federation.every_n_epochs=3"]


def write_stopper(path, class_path, **options):
    callback = {"class_path": class_path, "init_args": options}
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return ["--config", str(path)]


def test_rounds_without_improvement_stop_training_at_a_round_s_end(tmp_path, capsys):
    # The mean divergence cannot fall below itself by 1000: only the first round is the best.
    stopper = write_stopper(
        tmp_path / "stop.yaml",
        "huscf.callbacks.RoundEarlyStopping",
        monitor="federation/mean_kld",
        patience=2,
        min_delta=1000.0,
    )
    assert fit(tmp_path / "runs", *ROUNDS, *stopper, "--trainer.max_epochs=30") == 0
    folder = tmp_path / "runs" / "quickstart-1"
    assert [row["step"] for row in rows(folder)] == ["3", "6", "9"]
    assert checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 9
    # Resumed after round 2, it stops where the unbroken run stops.
    second = folder / "checkpoints" / "round-0002.ckpt"
    resume = ["--trainer.max_epochs=30", f"--ckpt_path={second}"]
    assert fit(tmp_path / "runs", *ROUNDS, *stopper, *resume) == 0
    assert [row["step"] for row in rows(folder)] == ["3", "6", "9"]
    # Where it has stopped it stays, until somebody wants more.
    capsys.readouterr()
    resume = ["--trainer.max_epochs=30", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"]
    assert fit(tmp_path / "runs", *ROUNDS, *stopper, *resume) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "nothing is left to do" in out and "ended by patience 2 of RoundEarlyStopping" in out
    assert [row["step"] for row in rows(folder)] == ["3", "6", "9"]
    patient = Path(stopper[1])
    patient.write_text(patient.read_text().replace("patience: 2", "patience: 4"))
    assert fit(tmp_path / "runs", *ROUNDS, *stopper, *resume) == 0
    assert [row["step"] for row in rows(folder)] == ["3", "6", "9", "12", "15"]


def test_a_figure_that_no_round_has_is_named(tmp_path):
    stopper = write_stopper(
        tmp_path / "stop.yaml", "huscf.callbacks.RoundEarlyStopping", monitor="eval/digit/score"
    )
    with pytest.warns(UserWarning, match="no round has eval/digit/score; there are round, "):
        assert fit(tmp_path / "runs", *ROUNDS, *stopper, "--trainer.max_epochs=3") == 0


def test_a_stop_within_a_round_says_what_is_in_no_round(tmp_path, capsys):
    stopper = write_stopper(
        tmp_path / "stop.yaml",
        "lightning.pytorch.callbacks.EarlyStopping",
        monitor="train/generator_loss",
        patience=1,
        min_delta=1000.0,
    )
    assert fit(tmp_path / "runs", *ROUNDS, *stopper, "--trainer.max_epochs=9") == 0
    assert "the last 2 epochs ended no round" in " ".join(capsys.readouterr().out.split())


def test_training_of_no_step_says_so(tmp_path, capsys):
    assert fit(tmp_path, "--trainer.max_steps=0") == 0
    assert "nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["rule", "weighting"])
def test_a_function_that_cannot_be_called_as_it_will_be_is_refused_at_once(option):
    with pytest.raises(HuscfError, match=rf"federation.{option} is called with \w+, \w+: "):
        ClusteredFederation(**{option: lambda features: features})
