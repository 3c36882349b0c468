"""What the trainer's own loggers get, with the real packages where they are installed."""

import csv
import subprocess
import sys

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger

from huscf.__main__ import main
from huscf.callbacks.media_log import find_loggers, find_media
from huscf.reporting.logger_media import send_media
from tests.reporting.conftest import fit

LOGGERS = "lightning.pytorch.loggers"


def write_logger(path, class_path, **options):
    path.write_text(
        yaml.safe_dump({"trainer": {"logger": {"class_path": class_path, "init_args": options}}})
    )
    return ["--config", str(path), "--report.enabled=true", "--training.num_threads=1"]


def read_rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# Warnings of packages that are the user's own.
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_gets_figures_pictures_and_the_configuration(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard, which is the user's own")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = write_logger(
        tmp_path / "tb.yaml", f"{LOGGERS}.TensorBoardLogger", save_dir=str(tmp_path / "tb")
    )
    run = fit(tmp_path / "runs", *options)
    (folder,) = {path.parent for path in (tmp_path / "tb").rglob("events.out.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    for name in ("train/generator_loss", "federation/ari", "seconds"):
        found = {event.step: event.value for event in events.Scalars(name)}
        expected = {int(row["step"]): float(row[name]) for row in read_rows(run)}
        assert found == pytest.approx(expected)
    pictures = events.Tags()["images"]
    assert {"samples/digits", "samples/negatives", "federation/map"} <= set(pictures)
    assert any(name.startswith("charts/") for name in pictures)
    steps = [int(row["step"]) for row in read_rows(run)]
    # Every round's grid, and the last state's.
    assert [event.step for event in events.Images("samples/digits")] == [*steps, steps[-1]]
    assert events.Images("samples/digits")[0].width >= 32
    assert "seed_everything" in (folder / "hparams.yaml").read_text()


def test_tensorboard_plays_sounds(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard, which is the user's own")
    import numpy as np
    import soundfile
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wave = np.sin(np.arange(800) / 5)
    soundfile.write(tmp_path / "a-final.wav", wave, 8000)
    logger = TensorBoardLogger(tmp_path, name="tb")
    send_media(logger, {"sounds/a": tmp_path / "a-final.wav"}, 12, 3)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (sound,) = events.Audio("sounds/a")
    assert (sound.step, sound.sample_rate) == (12, 8000)
    assert sound.length_frames == 800


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_figures_and_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs mlflow, which is the user's own")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = write_logger(
        tmp_path / "ml.yaml", f"{LOGGERS}.MLFlowLogger", experiment_name="a", tracking_uri=uri
    )
    run = fit(tmp_path / "runs", *options)
    client = MlflowClient(uri)
    (record,) = client.search_runs([client.get_experiment_by_name("a").experiment_id])
    last = read_rows(run)[-1]
    assert record.data.metrics["federation/ari"] == float(last["federation/ari"])
    assert record.data.params["seed_everything"] == "0"
    files = [file.path for file in client.list_artifacts(record.info.run_id, "samples")]
    assert "samples/digits-final.png" in files


def test_csv_gets_figures_and_is_asked_for_nothing_that_it_cannot(tmp_path):
    options = write_logger(
        tmp_path / "c.yaml", f"{LOGGERS}.CSVLogger", save_dir=str(tmp_path / "c")
    )
    run = fit(tmp_path / "runs", *options)
    (logged,) = (tmp_path / "c").rglob("metrics.csv")
    with logged.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [int(row["step"]) for row in read_rows(run)]
    losses = [float(row["train/generator_loss"]) for row in rows]
    assert losses == [float(row["train/generator_loss"]) for row in read_rows(run)]
    assert yaml.safe_load((logged.parent / "hparams.yaml").read_text())["seed_everything"] == 0
    # A logger is the trainer's, which no checkpoint lends: nobody has to trust it.
    checkpoint = f"--ckpt_path={run}/checkpoints/last.ckpt"
    assert main(["predict", checkpoint, "--trainer.enable_progress_bar=false"]) == 0


def test_packages_of_loggers_are_imported_by_nobody_else():
    code = (
        "import sys, huscf.callbacks; from huscf.reporting.logger_media import send_media; "
        "from huscf.callbacks.media_log import find_loggers; "
        "bad = {'mlflow', 'tensorboard'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_logger_that_knows_no_pictures_is_left_alone(tmp_path):
    send_media(CSVLogger(tmp_path), {"samples/a": tmp_path / "not read"}, 1, 1)


def test_names_say_what_and_of_which_domain(tmp_path):
    names = ["my-d-round-0004.png", "my-d-round-0004.wav", "b-final.png"]
    for name in names:
        (tmp_path / "samples").mkdir(exist_ok=True)
        (tmp_path / "samples" / name).touch()
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "round-0004.png").touch()
    found = find_media(tmp_path, "samples/*-round-0004.*")
    assert sorted(found) == ["samples/my-d", "sounds/my-d"]
    assert list(find_media(tmp_path, "samples/*-final.*")) == ["samples/b"]
    assert list(find_media(tmp_path, "federation/round-0004.png")) == ["federation/map"]


def test_a_logger_that_a_callback_serves_is_left_to_it():
    from types import SimpleNamespace

    from huscf.callbacks import WandbLog

    served, own = WandbLog(), CSVLogger("unused")
    served.logger = DummyLogger()
    trainer = SimpleNamespace(callbacks=[served], loggers=[served.logger, own])
    assert find_loggers(trainer) == [own]


class DummyLogger(Logger):
    """Of no kind that knows pictures."""

    name = version = "dummy"

    def log_metrics(self, metrics, step=None):
        """Take figures."""

    def log_hyperparams(self, params):
        """Take a configuration."""
