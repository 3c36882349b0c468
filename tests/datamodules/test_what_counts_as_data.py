"""Files and folders that systems and tools leave among a user's own, and endings of all kinds."""

import warnings

import numpy as np
import pytest
import soundfile
from PIL import Image

from huscf.datamodules import AudioFolderDataModule, FileDataModule
from huscf.errors import DataError
from tests.datamodules.test_audio import make_tone, save_tone
from tests.datamodules.test_folder import make_clinic, make_dicom, make_module, save_picture

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00" + bytes(4096)

#: Folders that hold smaller copies of a user's pictures.
SYSTEM_FOLDERS = [
    *(".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", ".cache", "#recycle"),
    *("$RECYCLE.BIN", "@Recycle", "System Volume Information", "lost+found", ".Trashes"),
]


def load(folder, **options):
    """Return the domain, and the warnings that came with it."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        domain = make_module(folder, **options).domains["clinic"]
    return domain, [str(note.message) for note in notes]


def count(domain):
    return len(domain.train_labels) + len(domain.test_labels)


@pytest.mark.parametrize("below", ["clinic", "clinic/ill", "clinic/ill/week1"])
@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_hidden_and_system_folders_are_no_data_at_any_level(tmp_path, name, below):
    make_clinic(tmp_path / "clinic")
    save_picture(tmp_path / "clinic" / "ill" / "week1" / "0.png", 7)
    save_picture(tmp_path / below / name / "copy.png", 250)
    domain, notes = load(tmp_path)
    assert count(domain) == 21 and domain.class_names == ("ill", "well")
    assert 250 not in domain.train_samples and 250 not in domain.test_samples
    assert below == "clinic" or [n for n in notes if f"{below}/{name}/copy.png" in n]


@pytest.mark.parametrize("name", ["DICOMDIR", "Thumbs.db", "ehthumbs.db", "._x"])
def test_system_files_that_look_like_data_are_none(tmp_path, name):
    make_clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "ill" / name).write_bytes(bytes(128) + b"DICM" + bytes(99))
    assert count(load(tmp_path)[0]) == 20


@pytest.mark.parametrize("split", ["train", "test"])
def test_system_folders_beside_the_classes_of_a_half_are_no_classes(tmp_path, split):
    make_clinic(tmp_path / "clinic" / "train", 4)
    make_clinic(tmp_path / "clinic" / "test", 4)
    save_picture(tmp_path / "clinic" / split / "__MACOSX" / "0.png")
    domain, _ = load(tmp_path)
    assert domain.class_names == ("ill", "well") and count(domain) == 16


def test_a_folder_from_a_mac_is_read_without_its_leftovers(tmp_path):
    make_clinic(tmp_path / "clinic")
    for name in ("ill", "well"):
        folder = tmp_path / "clinic" / name
        for number in range(10):
            (folder / f"._{number}.png").write_bytes(APPLE_DOUBLE)
        (folder / ".DS_Store").write_bytes(bytes(6148))
        (folder / "Thumbs.db").write_bytes(bytes(512))
        (folder / "desktop.ini").write_text("[.ShellClassInfo]")
        (folder / "Icon\r").write_bytes(b"")
    domain, notes = load(tmp_path)
    assert count(domain) == 20
    (note,) = notes
    assert note.startswith("clinic: 20 files are passed over") and "clinic/ill/._0.png" in note


def test_a_folder_that_is_named_like_a_picture_is_looked_into(tmp_path):
    make_clinic(tmp_path / "clinic")
    save_picture(tmp_path / "clinic" / "ill" / "scan.png" / "0.png", 250)
    (tmp_path / "clinic" / "well" / "empty.png").mkdir()
    domain, notes = load(tmp_path)
    assert count(domain) == 21 and notes == []
    assert 250 in domain.train_samples or 250 in domain.test_samples


ENDINGS = [
    *("bmp", "webp", "gif", "BMP", "jpe", "jfif", "ppm", "pgm", "dib", "jp2", "avif", "TIF", "Png"),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_pictures_of_other_endings_are_read(tmp_path, ending):
    make_clinic(tmp_path / "clinic")
    kinds = {"jpe": "JPEG", "jfif": "JPEG", "jp2": "JPEG2000", "dib": "DIB", "pgm": "PPM"}
    kind = kinds.get(ending) or {"TIF": "TIFF", "Png": "PNG"}.get(ending) or ending.upper()
    place = tmp_path / "clinic" / "ill" / f"other.{ending}"
    Image.new("L", (20, 20), 250).save(place, format=kind)
    domain, notes = load(tmp_path)
    assert count(domain) == 21 and notes == []
    brightest = max(int(domain.train_samples.max()), int(domain.test_samples.max()))
    assert abs(brightest - 250) <= 2


@pytest.mark.parametrize("name", ["IM0001", "IM0001.7", "1.2.840.10008.99", "a.picture", "b.dicom"])
@pytest.mark.parametrize("kind", ["PNG", "DICOM"])
def test_files_without_a_known_ending_are_read_by_their_content(tmp_path, name, kind):
    make_clinic(tmp_path / "clinic")
    place = tmp_path / "clinic" / "ill" / name
    if kind == "DICOM" or name.endswith("dicom"):
        make_dicom().save_as(place, enforce_file_format=True)
    else:
        Image.new("L", (20, 20), 250).save(place, format="PNG")
    domain, notes = load(tmp_path)
    assert count(domain) == 21 and notes == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0", "file with .heic that cannot be read"),
        ("a.zip", b"PK\x03\x04\0\0", "file with .zip that cannot be read"),
        ("a.npy", b"\x93NUMPY\x01\0", "file with .npy that cannot be read"),
        ("raw", bytes(200), "file without ending that cannot be read"),
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be decoded"),
        ("b.png", b"", "picture cannot be decoded"),
        ("c.dcm", b"no such thing", "DICOM file"),
        ("d.nii", b"no such thing", "volume cannot be decoded"),
        ("e.nii.gz", b"no such thing", "volume cannot be decoded"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, reason):
    make_clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "ill" / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"1 x .*{reason}.*\(clinic/ill/{name}\)"):
        load(tmp_path)
    with pytest.warns(UserWarning, match="1 bad inputs"):
        domain = make_module(tmp_path, on_bad_data="skip").domains["clinic"]
    assert count(domain) == 20


@pytest.mark.parametrize("name", ["notes.txt", "boxes.json", "0.xml", "README", "labels.csv"])
def test_text_beside_pictures_is_passed_over_and_named(tmp_path, name):
    make_clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "ill" / name).write_text("größe: 3\n", encoding="utf-8")
    domain, notes = load(tmp_path)
    assert count(domain) == 20
    assert len(notes) == 1 and f"clinic/ill/{name}" in notes[0]


def test_a_folder_of_text_alone_is_no_class(tmp_path):
    make_clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "documents").mkdir()
    (tmp_path / "clinic" / "documents" / "readme.txt").write_text("read me")
    with pytest.raises(DataError, match=r"class folder without files \(clinic/documents\)"):
        load(tmp_path)
    domain, notes = load(tmp_path, on_bad_data="skip")
    assert domain.class_names == ("ill", "well") and len(notes) == 2


def test_pictures_beside_the_class_folders_are_named(tmp_path):
    make_clinic(tmp_path / "clinic")
    save_picture(tmp_path / "clinic" / "stray.png")
    with pytest.raises(DataError, match=r"1 x file in no class folder \(clinic/stray.png\)"):
        load(tmp_path)
    save_picture(tmp_path / "flat" / "0.png")
    with pytest.raises(DataError, match=r"flat has 1 files .*but no class folders: give every"):
        load(tmp_path, source="flat")


def test_links_to_folders_are_named(tmp_path):
    make_clinic(tmp_path / "clinic")
    save_picture(tmp_path / "more" / "0.png")
    (tmp_path / "clinic" / "ill" / "more").symlink_to(tmp_path / "more")
    with pytest.raises(DataError, match=r"link to a folder, which is not followed \(clinic/ill/mo"):
        load(tmp_path)


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    make_clinic(tmp_path / "clinic")

    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", str(folder / "locked")))
        yield str(folder), [], [p.name for p in folder.iterdir()]

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(DataError, match=r"folder that cannot be read \(Permission denied\)"):
        load(tmp_path)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden"])
def test_hidden_folders_of_recordings_are_no_data(tmp_path, name):
    for word, hertz in (("low", 200), ("high", 2000)):
        for number in range(5):
            save_tone(tmp_path / "words" / word / f"{number}.wav", hertz)
    save_tone(tmp_path / "words" / "low" / name / "0.wav", 999)
    data = AudioFolderDataModule({"words": "words"}, root=str(tmp_path))
    with pytest.warns(UserWarning, match=f"1 files are passed over.*low/{name}/0.wav"):
        assert count(data.domains["words"]) == 10


def test_recordings_without_a_known_ending_are_read_by_their_content(tmp_path):
    for word, hertz in (("low", 200), ("high", 2000)):
        for number in range(5):
            save_tone(tmp_path / "words" / word / f"{number}.wav", hertz)
    for ending in ("", ".wave", ".oga"):
        kind = "OGG" if ending == ".oga" else "WAV"
        soundfile.write(
            tmp_path / "words" / "low" / f"x{ending}", make_tone(300), 8000, format=kind
        )
    (tmp_path / "words" / "low" / "x.mkv").write_bytes(b"\x1aE\xdf\xa3\0\0")
    data = AudioFolderDataModule({"words": "words"}, root=str(tmp_path), on_bad_data="skip")
    with pytest.warns(UserWarning, match=r"1 x file with .mkv that cannot be read \(words/low/x.m"):
        assert count(data.domains["words"]) == 13


class Arrays(FileDataModule):
    """A plug-in whose samples are .npy files, with what it likes beside them."""

    def list_sources(self):
        return self.list_inside_root({"clinic": "clinic"}, [".npy"], [])

    def read_sample(self, path):
        import torch

        return torch.from_numpy(np.load(path, allow_pickle=False))

    def describe_reading(self):
        return {}


def test_a_plug_in_goes_on_naming_its_own_endings(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for number in range(5):
            np.save(tmp_path / "clinic" / name / f"{number}.npy", np.full((1, 4, 4), number, "u1"))
            (tmp_path / "clinic" / name / f"{number}.bin").write_bytes(bytes(9))
    domain = Arrays(root=str(tmp_path)).domains["clinic"]
    assert count(domain) == 10 and domain.train_samples[0].unique().tolist() == [0]
