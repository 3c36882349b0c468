"""Paths below the home folder and files of other encodings, in every command and file."""

import shutil
from pathlib import Path

import pytest
import yaml

from huscf.__main__ import main
from huscf.callbacks import Replanning
from huscf.errors import HuscfError
from huscf.planning.devices.fleet import load_mapping
from huscf.split import CutPlan
from huscf.text_files import MAX_TEXT_BYTES, read_text
from huscf.user_paths import expand_path
from tests.conftest import REPOSITORY
from tests.test_security import MINI, refuse

TEXT = MINI.replace("latent_dim: 2", "latent_dim: 2\n      generator_lr: 1e-3 # größer") + (
    "run: {name: grün}\n"
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_configuration_of_any_encoding_is_the_same(home, encoding):
    (home / "mine.yaml").write_bytes(TEXT.encode(encoding))
    command = (
        ["fit", "--config", "mine.yaml"] if "16" in encoding else ["fit", "--config=mine.yaml"]
    )
    assert main(command) == 0
    config = yaml.safe_load((home / "runs" / "grün-1" / "config.yaml").read_text("utf-8"))
    assert config["model"]["method"]["init_args"]["generator_lr"] == 0.001
    assert config["data"]["init_args"]["samples_per_client"] == 8


def test_every_command_reads_utf_16_and_knows_the_home_folder(home, capsys):
    (home / "mine.yaml").write_bytes(TEXT.encode("utf-16"))
    own = ["--config=~/mine.yaml", "--trainer.default_root_dir=~/there"]
    assert main(["fit", *own]) == 0
    assert main(["fit", *own, "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    run = home / "there" / "grün-1"
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    ckpt = "--ckpt_path=~/there/grün-1/checkpoints/last.ckpt"
    assert main(["predict", "--config", "~/mine.yaml", ckpt]) == 0
    assert main(["predict", ckpt]) == 0
    assert main(["generate", ckpt, "--output=~/out", "--num_samples=10"]) == 0
    assert (home / "out" / "samples.npz").exists()
    assert main(["generate", "--ckpt_path=~/there/grün-1", "--output=~/two"]) == 0
    assert main(["export", ckpt, "--output=~/generator.pt", "--cluster=0"]) == 0
    assert (home / "generator.pt").exists()
    assert main(["report", "~/there/grün-1"]) == 0 and (run / "report.html").exists()
    assert main(["compare", "~/there/grün-1", "--output=~/curves.png"]) == 0
    assert (home / "curves.png").exists()
    assert main(["check-data", "--config=~/mine.yaml", "--output=~/sheet.png"]) == 0
    assert (home / "sheet.png").exists()
    assert not (home / "~").exists() and not (home / "runs").exists()
    assert "no such file" in refuse(["predict", "--ckpt_path=~/nothing.ckpt"], capsys)


def test_a_file_that_a_configuration_names_is_refused_by_its_key_in_another_encoding(home, capsys):
    text = "class_path: huscf.datamodules.DigitsDataModule"
    (home / "data.yaml").write_bytes(text.encode("utf-16"))
    (home / "two.yaml").write_text(f"data: {home / 'data.yaml'}")
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", str(home / "two.yaml")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("data: the file that it names is not in UTF-8: save it as that")


def test_plans_and_devices_below_the_home_folder_in_utf_16(home):
    devices = (REPOSITORY / "configs" / "paper" / "devices.yaml").read_text("utf-8")
    (home / "devices.yaml").write_bytes(devices.encode("utf-16"))
    plan = ["plan", "--config=~/devices.yaml", "--strategy=uniform", "--output=~/plan.yaml"]
    assert main(plan) == 0
    text = (home / "plan.yaml").read_text("utf-8")
    (home / "plan.yaml").write_bytes(text.encode("utf-16"))
    assert len(CutPlan.load("~/plan.yaml").clients) == len(yaml.safe_load(text)["clients"])
    assert load_mapping("~/devices.yaml") == load_mapping(
        REPOSITORY / "configs" / "paper" / "devices.yaml"
    )
    (home / "drift.yaml").write_text("events: [{round: 2, client: 0, speed_factor: 0.5}]")
    assert len(Replanning(drift="~/drift.yaml").drift.events) == 1


def test_the_weights_of_a_judge_may_lie_below_the_home_folder(home):
    from huscf.metrics import InceptionFeatures

    with pytest.raises(HuscfError, match=str(home / "inception.pth")):
        _ = InceptionFeatures("~/inception.pth").extractor


def test_a_file_without_end_is_no_configuration(home, capsys):
    shutil.copy(REPOSITORY / "configs" / "quickstart.yaml", home / "large.yaml")
    with (home / "large.yaml").open("a") as file:
        file.truncate(MAX_TEXT_BYTES + 1)
    assert "large.yaml: not a configuration: larger than 64 MiB" in refuse(
        ["fit", "--config=large.yaml"], capsys
    )
    if Path("/dev/zero").exists():
        with pytest.raises(ValueError, match="larger"):
            read_text(Path("/dev/zero"))
        with pytest.raises(HuscfError, match="/dev/zero: cannot be read"):
            CutPlan.load("/dev/zero")


def test_a_home_folder_that_is_nobodys_is_named():
    with pytest.raises(HuscfError, match="~nobody-of-that-name/x: there is no such home folder"):
        expand_path("~nobody-of-that-name/x")
