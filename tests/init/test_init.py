"""huscf init: what it finds in folders, and that what it writes trains."""

import csv
import shlex

import numpy as np
import pytest
import yaml
from PIL import Image

from huscf.__main__ import main
from huscf.check_data import read_datamodule
from huscf.init.layout import find_sources
from tests.conftest import REPOSITORY
from tests.datamodules.test_audio import save_tone
from tests.datamodules.test_folder import make_dicom, save_picture


@pytest.fixture(autouse=True)
def own_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def save_classes(folder, names=("cat", "dog"), count=10, size=(40, 50), is_coloured=False):
    for name in names:
        for number in range(count):
            path = folder / name / f"{number}.png"
            save_picture(path, 8 * number, size)
            if is_coloured:
                Image.new("RGB", size, (200, 8 * number, 0)).save(path)


def train(config, *options):
    return main(
        [
            *("fit", "--config", str(config)),
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=2",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            "--evaluation.every_n_rounds=-1",
            "--report.enabled=false",
            "--model.method.generator.width=4",
            "--model.method.discriminator.width=4",
            *options,
        ]
    )


def read(path):
    return yaml.safe_load(path.read_text())


def test_classes_that_sites_number_differently_are_numbered_together(tmp_path, capsys):
    save_classes(tmp_path / "mine" / "north", ("10", "2", "benign: a", "normal"), 20)
    save_classes(tmp_path / "mine" / "south", ("2", "normal"), 20)
    assert main(["init", "folder", "--data", "mine", "--output", "first.yaml"]) == 0
    assert "; found: 2, 10, benign: a, normal\n" in (tmp_path / "first.yaml").read_text()
    names = ["2", "10", "benign: a", "normal"]
    assert read(tmp_path / "first.yaml")["data"]["init_args"]["classes"] == names
    assert main(["check-data", "--config", "first.yaml"]) == 0
    assert train(tmp_path / "first.yaml") == 0


def test_two_sites_of_pictures_are_described_and_train_two_steps(tmp_path, capsys):
    save_classes(tmp_path / "mine" / "north", count=30)
    save_classes(tmp_path / "mine" / "south", count=30, size=(64, 64), is_coloured=True)
    assert main(["init", "folder", "--data", "mine", "--output", "first.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "north: 48 samples to train on, 12 held out" in printed
    assert "huscf fit --config first.yaml" in printed
    config = read(tmp_path / "first.yaml")
    assert config["data"]["class_path"] == "huscf.datamodules.FolderDataModule"
    given = config["data"]["init_args"]
    assert given["root"] == "mine" and given["sources"] == {"north": "north", "south": "south"}
    assert given["image_size"] == 32 and given["clients_per_domain"] == 3  # of 16 samples each
    assert given["on_bad_data"] == "fatal" and config["run"]["name"] == "first"
    text = (tmp_path / "first.yaml").read_text()
    for found in ("120 .png", "50 x 40, 64 x 64", "colour", "cat, dog"):
        assert f"; found: {found}\n" in text
    assert train("first.yaml") == 0
    (path,) = tmp_path.glob("runs/first-1/metrics.csv")
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert float(row["train/generator_loss"]) > 0


def test_classes_that_differ_between_sites_are_counted_by_name(tmp_path):
    save_classes(tmp_path / "mine" / "north", count=30)
    save_classes(tmp_path / "mine" / "south", ("coat", "shirt", "shoe"), count=30)
    assert main(["init", "folder", "--data", "mine", "--output", "first.yaml"]) == 0
    assert "; found: 5, not alike everywhere\n" in (tmp_path / "first.yaml").read_text()


def test_it_never_writes_over_a_file(tmp_path, capsys):
    (tmp_path / "folder.yaml").write_text("mine")
    assert main(["init", "folder"]) == 2
    line = capsys.readouterr().err
    assert line == "huscf: error: output folder.yaml: exists already; nothing was written\n"
    assert (tmp_path / "folder.yaml").read_text() == "mine"


def test_medical_takes_patients_frames_and_the_middle_slice(tmp_path, capsys):
    for number in range(24):
        record = make_dicom()
        record.PatientID = f"P{number // 2}"
        place = tmp_path / "ct" / ("ill", "well")[number // 2 % 2] / f"{number}"  # no ending
        place.parent.mkdir(parents=True, exist_ok=True)
        record.save_as(place, enforce_file_format=True)
    assert main(["init", "medical", "--data", "ct"]) == 0
    assert "patients  10 to train on, 2 held out" in capsys.readouterr().out
    given = read(tmp_path / "medical.yaml")["data"]["init_args"]
    assert given["sources"] == {"ct": "."} and given["keep_patients"] is True
    assert given["frames"] == "refuse" and given["clients_per_domain"] == 2
    data = read_datamodule([tmp_path / "medical.yaml"], [])
    assert len(data.clients) == 2 and data.sample_shape.num_classes == 2


def test_of_volumes_the_middle_slice_is_taken(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for number in range(12):
        place = tmp_path / "mr" / ("ill", "well")[number % 2] / f"{number}.nii"
        place.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).random((16, 20, 12), np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), place)
    assert main(["init", "folder", "--data", "mr"]) == 0
    given = read(tmp_path / "folder.yaml")["data"]["init_args"]
    assert (given["frames"], given["image_size"], given["axis"]) == ("middle", 16, "axial")
    data = read_datamodule([tmp_path / "folder.yaml"], [])
    assert sum(len(client) for client in data.clients) == 10 and not any(data.bad_data.values())


def test_recordings_get_a_spectrogram_of_their_length(tmp_path):
    for number in range(20):
        save_tone(tmp_path / "words" / ("no", "yes")[number % 2] / f"{number}.wav", 300 + number)
    assert main(["init", "audio", "--data", "words"]) == 0
    text = (tmp_path / "audio.yaml").read_text()
    given = yaml.safe_load(text)["data"]["init_args"]
    assert given["spectrogram"] == {"sample_rate": 8000, "duration_s": 0.5, "size": 32}
    assert "found: 8000 Hz" in text and "0.50 to 0.50 s" in text
    assert train("audio.yaml") == 0


def test_a_csv_with_clients_gives_each_its_own(tmp_path):
    save_classes(tmp_path / "data" / "pics", count=12)
    with (tmp_path / "data" / "ward.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "client"])
        for name in ("cat", "dog"):
            for number in range(12):
                writer.writerow([f"pics/{name}/{number}.png", name, f"c{number % 3}"])
    assert main(["init", "folder", "--data", "data"]) == 0
    given = read(tmp_path / "folder.yaml")["data"]["init_args"]
    assert given["sources"] == {"ward": "ward.csv"} and given["clients_per_domain"] == [3]
    data = read_datamodule([tmp_path / "folder.yaml"], [])
    assert [sorted(set(c.domain.keys[c.indices])) for c in data.clients] == [["c0"], ["c1"], ["c2"]]


def test_bad_files_are_skipped_and_counted(tmp_path):
    save_classes(tmp_path / "mine", count=20)
    (tmp_path / "mine" / "cat" / "bad.png").write_bytes(b"no picture")
    assert main(["init", "folder", "--data", "mine"]) == 0
    text = (tmp_path / "folder.yaml").read_text()
    assert "on_bad_data: skip # fatal stops" in text
    assert "skip goes on; found: 1 bad, see huscf check-data\n" in text
    assert yaml.safe_load(text)["data"]["init_args"]["sources"] == {"mine": "."}


def test_layouts(tmp_path):
    save_classes(tmp_path / "one", count=2)
    assert find_sources(tmp_path / "one", False) == {"one": "."}
    save_classes(tmp_path / "halves" / "Train", count=2)
    save_classes(tmp_path / "halves" / "Test", count=2)
    assert find_sources(tmp_path / "halves", False) == {"halves": "."}
    save_classes(tmp_path / "sites" / "a" / "train", count=2)
    save_classes(tmp_path / "sites" / "a" / "test", count=2)
    save_classes(tmp_path / "sites" / "b", ("red", "white"), count=2)
    assert find_sources(tmp_path / "sites", False) == {"a": "a", "b": "b"}
    for name in ("ill", "well"):  # a folder per patient below the class
        save_classes(tmp_path / "study" / name, [f"{name}{n}" for n in range(12)], count=1)
    assert find_sources(tmp_path / "study", False) == {"study": "."}


def test_strange_names_survive(tmp_path):
    folder = tmp_path / "my: data # 1"
    save_classes(folder / "no", ("on", "1.0"), count=4)
    assert main(["init", "folder", "--data", str(folder)]) == 0
    given = read(tmp_path / "folder.yaml")["data"]["init_args"]
    assert given["root"] == str(folder) and given["sources"] == {"no": "no"}


def test_names_that_are_numbers_to_some_and_paths_with_spaces_can_be_used(tmp_path, capsys):
    save_classes(tmp_path / "1e3" / "2e4")
    save_classes(tmp_path / "1e3" / "no")
    assert main(["init", "folder", "--data", "1e3", "--output", "my data.yaml"]) == 0
    (shown,) = (line for line in capsys.readouterr().out.splitlines() if "check-data" in line)
    command = shlex.split(shown)
    assert command == ["huscf", "check-data", "--config", "my data.yaml"]
    assert "--config 'my data.yaml' " in (tmp_path / "my data.yaml").read_text()
    assert main(command[1:]) == 0
    assert read_datamodule([tmp_path / "my data.yaml"], []).domains.keys() == {"2e4", "no"}


def test_without_data_there_is_something_to_fill_in(tmp_path):
    for kind in ("folder", "medical", "audio", "quickstart"):
        assert main(["init", kind]) == 0
        config = read(tmp_path / f"{kind}.yaml")
        assert config["trainer"]["max_epochs"] == 60
    assert read(tmp_path / "folder.yaml")["data"]["init_args"]["root"] == "my_data"
    shipped = yaml.safe_load((REPOSITORY / "configs" / "quickstart.yaml").read_text())
    assert read(tmp_path / "quickstart.yaml") == shipped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["folder", "--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["folder", "--data", "flat"], "no class folders, and no CSV with path and label"),
        (["quickstart", "--data", "flat"], "--data: quickstart has its own; use folder"),
        (["folder", "--output", "no/such/a.yaml"], "output no/such/a.yaml: the folder does not"),
        (["films"], "invalid choice: 'films'"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, options, message):
    (tmp_path / "flat").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "flat" / "a.png")
    assert main(["init", *options]) == 2
    line = capsys.readouterr().err
    assert message in line and line.startswith("huscf: error: ") and line.count("\n") == 1
    assert not list(tmp_path.glob("*.yaml"))
