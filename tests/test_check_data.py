"""huscf check-data: what it counts, says and draws, and when it says that a run would stop."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from huscf.__main__ import main
from huscf.check_data import read_datamodule
from huscf.datamodules import DigitsDataModule, FolderDataModule
from huscf.errors import HuscfError
from tests.datamodules.test_audio import save_tone
from tests.datamodules.test_folder import make_dicom, save_picture

CONFIG = """\
data:
  class_path: huscf.datamodules.FolderDataModule
  init_args:
    root: {root}
    sources: {{north: north, south: south.csv}}
    clients_per_domain: 2
    image_size: 16
model: {{generator_lr: 0.1, no_such_key: 1}}
run: {{name: mine}}
"""


@pytest.fixture(autouse=True)
def private_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sites(tmp_path):
    """A site of grey folders, and one of colour in a CSV with patients; 20 pictures each."""
    root = tmp_path / "data"
    rows = []
    for number in range(20):
        name = ("benign", "malignant")[number % 2]
        save_picture(root / "north" / name / f"{number}.png", 5 * number, (40, 50))
        save_picture(root / "pics" / f"{number}.jpg", 0, (30, 30), channels=3)
        Image.new("RGB", (30, 30), (200, 10 * number, 0)).save(root / "pics" / f"{number}.jpg")
        rows.append([f"pics/{number}.jpg", name, f"P{number // 4}"])
    with (root / "south.csv").open("w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([["path", "label", "patient"], *rows])
    (tmp_path / "mine.yaml").write_text(CONFIG.format(root=root))
    return root


def check(capsys, *options):
    code = main(["check-data", "--config", "mine.yaml", *options])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_it_counts_what_there_is(sites, tmp_path, capsys):
    code, text, errors = check(capsys)
    assert code == 0 and errors == ""
    for line in (
        "north: 16 samples to train on, 4 held out; 1 x 16 x 16 each",
        "south: 16 samples to train on, 4 held out; 3 x 16 x 16 each",
        "  classes   benign: 8 + 2; malignant: 8 + 2",
        "  sizes     50 x 40: 20",
        "  depths    8-bit grey: 20",
        "  depths    8-bit RGB: 20",
        "  patients  4 to train on, 1 held out",
        "  bad       none",
        "4 clients",
        "  2   south: 8 samples (benign 4, malignant 4); 2 patients or files",
    ):
        assert line in text.splitlines(), line
    assert "note:" not in text


def test_it_says_what_is_done(sites, capsys):
    _, text, _ = check(capsys, "--data.window", "[0, 4095]", "--data.background=255")
    for sentence in (
        "the middle square of a picture is resized to 16 x 16",
        "deep grey pictures show 0.0 as black and 4095.0 as white",
        "where a picture is transparent, grey level 255 shows",
        "north is brought from 1 x 16 x 16 to 3 x 16 x 16 (channels, rows, columns)",
        "samples of a patient, or file, are one client's in south",
        "pixels 0 to 255 become numbers from -1 to 1",
    ):
        assert f"  {sentence}" in text


def test_the_sheet_shows_samples_as_the_network_sees_them(sites, tmp_path, capsys):
    check(capsys)
    with Image.open("check-data.png") as image:
        sheet = np.asarray(image)
    rows = [sheet[66 * row + 32, 180 + 32 :: 66] for row in range(4)]  # a pixel of each sample
    assert (rows[0][:8, 0] == rows[0][:8, 2]).all() and len(np.unique(rows[0][:8, 0])) == 8
    assert (np.abs(rows[2][:8].astype(int)[:, 0] - 200) < 6).all() and (rows[2][:8, 2] < 30).all()
    data = read_datamodule([tmp_path / "mine.yaml"], [])
    first = data.domains["north"].train_samples[0, :, 8, 8].tolist()
    assert rows[0][0].tolist() == first


def test_the_sheet_shows_letters_beyond_ascii(sites, capsys):
    """A font without them draws the same box for both."""
    for name in ("\u00e4", "\u00f6"):
        for number in range(10):
            save_picture(sites / "north" / name / f"{number}.png", 5 * number, (40, 50))
    check(capsys, "--data.sources", "{north: north}")
    with Image.open("check-data.png") as image:
        sheet = np.asarray(image)
    titles = [sheet[66 * row : 66 * row + 64, :180] for row in (2, 3)]
    assert (titles[0] != titles[1]).any() and (titles[0] == 255).any()


def test_bad_files_are_counted_by_domain_and_client_and_stop_a_run(sites, capsys):
    (sites / "north" / "benign" / "a.png").write_bytes(b"no picture")
    (sites / "north" / "benign" / "b.png").write_bytes(b"no picture")
    rows = (sites / "south.csv").read_text().splitlines()
    rows = [f"{row};{'client' if n == 0 else f'ward{n % 2}'}" for n, row in enumerate(rows)]
    rows += ["pics/99.jpg;benign;P9;ward1"]
    rows = [row.rsplit(";", 2)[0] + ";" + row.rsplit(";", 1)[1] for row in rows]  # no patients
    (sites / "south.csv").write_text("\n".join(rows))
    code, text, errors = check(capsys)
    assert code == 2
    assert "huscf: error: 3 bad inputs, at which a run stops: mend them, or leave" in errors
    lines = text.splitlines()
    assert "  bad       2 x picture cannot be decoded (north/benign/a.png, ...)" in lines
    assert "  bad       1 x file is missing (pics/99.jpg)" in lines
    assert "  bad of    ward1: 1" in lines
    code, text, errors = check(capsys, "--data.on_bad_data", "skip")
    assert code == 0 and errors == "" and "1 x file is missing" in text


def test_what_is_passed_over_is_a_note(sites, capsys):
    save_picture(sites / "north" / "benign" / ".ipynb_checkpoints" / "0.png")
    _, text, _ = check(capsys)
    assert "note: north: 1 files are passed over" in text


def test_options_and_further_files_win(sites, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("data: {init_args: {clients_per_domain: 3}}\n")
    options = ["--config", "more.yaml", "--data.image_size", "8", "--output", "sheet.png"]
    code, text, _ = check(capsys, *options)
    assert code == 0 and "6 clients" in text and "1 x 8 x 8 each" in text
    assert (tmp_path / "sheet.png").is_file() and not (tmp_path / "check-data.png").exists()


def test_the_seed_is_that_of_the_run(sites, tmp_path):
    (tmp_path / "seed.yaml").write_text("seed_everything: 5\n")
    data = read_datamodule([tmp_path / "mine.yaml", tmp_path / "seed.yaml"], [])
    assert isinstance(data, FolderDataModule) and data.seed == 5
    assert read_datamodule([tmp_path / "mine.yaml"], ["--seed_everything", "7"]).seed == 7


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "cp1252"])
def test_configurations_in_other_code_pages_are_read(tmp_path, encoding):
    text = "# größe\ndata: {class_path: huscf.datamodules.DigitsDataModule, init_args: {seed: 3}}\n"
    (tmp_path / "mine.yaml").write_bytes(text.encode(encoding))
    assert isinstance(read_datamodule([tmp_path / "mine.yaml"], []), DigitsDataModule)


def test_it_works_for_data_without_files_and_with_augmentation(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(
        "data:\n  class_path: huscf.datamodules.DigitsDataModule\n  init_args:\n"
        "    augmentation: {shift_px: 2}\n    label_sampling: balanced\n"
        "    partitioner:\n      class_path: huscf.datamodules.LabelExclusionPartitioner\n"
        "      init_args: {missing_classes: {9: 1.0}}\n    clients_per_domain: 1\n"
    )
    code, text, _ = check(capsys)
    assert code == 0 and "2 clients" in text and "sizes" not in text
    assert "training batches are changed at random: Augmentation(" in text
    assert "every client draws the classes that it has equally often" in text
    assert "note: no client has class" in text


def test_recordings_and_dicom_are_described(tmp_path, capsys):
    for number in range(10):
        save_tone(tmp_path / "words" / ("no", "yes")[number % 2] / f"{number}.wav", 300)
        record = make_dicom()
        record.PatientID = f"P{number // 2}"
        place = tmp_path / "ct" / ("ill", "well")[number // 2 % 2] / f"{number}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        record.save_as(place, enforce_file_format=True)
    template = (
        "data: {{class_path: huscf.datamodules.{0}, "
        "init_args: {{root: ., sources: {{a: {1}}}, clients_per_domain: 2}}}}"
    )
    (tmp_path / "mine.yaml").write_text(template.format("AudioFolderDataModule", "words"))
    code, text, _ = check(capsys)
    assert code == 0 and "  depths    1 channel, PCM_16: 10" in text.splitlines()
    assert "cut or padded to 0.64 s, scaled to the same peak" in text
    (tmp_path / "mine.yaml").write_text(template.format("FolderDataModule", "ct"))
    code, text, _ = check(capsys)
    lines = text.splitlines()
    assert code == 0 and "  depths    12-bit MONOCHROME2: 10" in lines
    assert "  patients  3 to train on, 2 held out" in lines


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "config mine.yaml: there is no such file, and none of that name"),
        ("data: [1", [], "config mine.yaml: is no YAML"),
        ("just words", [], "config mine.yaml: needs keys such as data:"),
        ("model: {}", [], "the data are missing: give --config FILE"),
        ("data: {class_path: huscf.datamodules.Digits}", [], "huscf.datamodules.Digits"),
        ("data: {class_path: torch.nn.Linear, init_args: {}}", [], "torch.nn.Linear"),
        ("data: {class_path: huscf.datamodules.DigitsDataModule}", ["--data.size", "3"], "size"),
        ("data: {class_path: huscf.datamodules.DigitsDataModule}", ["--model.x", "3"], "model.x"),
        (
            "data: {class_path: huscf.datamodules.DigitsDataModule}",
            ["--data.batch_size", "0"],
            "data.batch_size is 0, must be >= 1",
        ),
        (
            "data: {class_path: huscf.datamodules.DigitsDataModule}",
            ["--output", "no/such/folder/a.png"],
            "output no/such/folder/a.png: the folder does not exist",
        ),
        (
            "data: {class_path: huscf.datamodules.FolderDataModule, init_args: {sources: {a: b}}}",
            [],
            "no folder or CSV file",
        ),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, monkeypatch, capsys, content, options, message):
    monkeypatch.delenv("HUSCF_DATA", raising=False)
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
    try:
        code = main(["check-data", "--config", "mine.yaml", *options])
    except SystemExit as stopped:
        code = stopped.code
    errors = capsys.readouterr().err
    assert code == 2 and message in errors
    assert errors.startswith("huscf: error: ") and errors.count("\n") == 1


def test_no_file_of_the_user_s_is_overwritten_unasked(sites, tmp_path, capsys):
    before = (tmp_path / "mine.yaml").read_text()
    code, text, errors = check(capsys, "--output", "mine.yaml")
    assert code == 2 and text == ""
    assert errors == (
        "huscf: error: output mine.yaml: exists already; use --overwrite to replace it\n"
    )
    assert (tmp_path / "mine.yaml").read_text() == before
    for flags, wanted in (([], 0), ([], 2), (["--overwrite"], 0)):
        assert check(capsys, "--output", "sheet.png", *flags)[0] == wanted
    assert check(capsys)[0] == check(capsys)[0] == 0  # its own file, by default


def test_a_class_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {class_path: huscf.datamodules.DigitsDataModule}")
    with pytest.raises(HuscfError, match=r"data.seed is -1, must be >= 0"):
        read_datamodule([tmp_path / "mine.yaml"], ["--seed_everything", "-1"])


def test_nothing_is_drawn_anew_by_looking(sites, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert main(["check-data", "--config", "mine.yaml"]) == 0
    assert torch.equal(before, torch.get_rng_state())
