"""Failures that may pass are named, and not kept in the cache."""

import errno
from pathlib import Path

import pytest
from PIL import features

from huscf.datamodules import AudioFolderDataModule
from huscf.errors import DataError
from tests.datamodules.test_audio import save_tone
from tests.datamodules.test_folder import make_clinic, make_module

NO_RIGHTS = PermissionError(errno.EACCES, "Permission denied")
NO_NETWORK = OSError(errno.EIO, "Input/output error")


def fail_once(monkeypatch, target, name, error, chosen="1.png"):
    """Let a function fail for one file until the patch is undone."""
    real = getattr(target, name)

    def fail(path, *arguments, **options):
        if str(getattr(path, "name", path)).endswith(chosen):
            raise error
        return real(path, *arguments, **options)

    monkeypatch.setattr(target, name, fail)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NO_RIGHTS, r"file cannot be read \(Permission denied\)"),
        (NO_NETWORK, r"file cannot be read \(Input/output error\)"),
        (MemoryError(), r"picture cannot be decoded here \(too little memory\)"),
    ],
)
@pytest.mark.parametrize("on_bad_data", ["fatal", "skip"])
def test_a_failure_that_passed_leaves_no_trace(tmp_path, monkeypatch, error, reason, on_bad_data):
    make_clinic(tmp_path / "clinic")
    options = {"cache_dir": str(tmp_path / "cache"), "on_bad_data": on_bad_data}
    with monkeypatch.context() as failing:
        fail_once(failing, __import__("PIL.Image").Image, "open", error)
        if on_bad_data == "fatal":
            with pytest.raises(DataError, match=rf"2 x {reason} \(clinic/ill/1.png, clinic/well/1"):
                _ = make_module(tmp_path, **options).domains
        else:
            with pytest.warns(UserWarning, match=reason):
                domain = make_module(tmp_path, **options).domains["clinic"]
            assert len(domain.train_labels) == 14
            assert domain.train_samples.sum() > 0  # what was mapped lives on
    assert list((tmp_path / "cache").iterdir()) == []
    domain = make_module(tmp_path, **options).domains["clinic"]
    assert len(domain.train_labels) == 16
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_rights_that_lack_for_the_folder_are_named(tmp_path, monkeypatch):
    make_clinic(tmp_path / "clinic")
    fail_once(monkeypatch, Path, "is_file", NO_RIGHTS)
    with pytest.raises(DataError, match=r"file cannot be read \(Permission denied\)"):
        _ = make_module(tmp_path).domains


@pytest.mark.parametrize(("ending", "decoder"), [(".webp", "webp"), (".jp2", "jpg_2000")])
def test_a_decoder_that_this_pillow_lacks_is_named(tmp_path, monkeypatch, ending, decoder):
    make_clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "ill" / f"x{ending}").write_bytes(b"anything")
    monkeypatch.setattr(features, "get_supported", lambda: [])
    cache = tmp_path / "cache"
    with pytest.raises(
        DataError, match=f"decoder is missing: this Pillow was built without {decoder}"
    ):
        _ = make_module(tmp_path, cache_dir=str(cache)).domains
    assert list(cache.iterdir()) == []


def test_a_damaged_picture_is_kept_as_such(tmp_path):
    make_clinic(tmp_path / "clinic")
    (tmp_path / "clinic" / "ill" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="1 x picture cannot be decoded"):
        _ = make_module(tmp_path, cache_dir=str(tmp_path / "cache")).domains
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("error", [NO_RIGHTS, NO_NETWORK])
def test_recordings_are_tried_again(tmp_path, monkeypatch, error):
    for word, hertz in (("low", 200), ("high", 2000)):
        for number in range(5):
            save_tone(tmp_path / "words" / word / f"{number}.wav", hertz)
    options = {"root": str(tmp_path), "cache_dir": str(tmp_path / "cache"), "mixed_rates": True}
    with monkeypatch.context() as failing:
        fail_once(failing, Path, "open", error, "1.wav")
        with pytest.raises(
            DataError, match=r"2 x file cannot be read .*\(words/low/1|words/high/1"
        ):
            _ = AudioFolderDataModule({"words": "words"}, **options).domains
    assert list((tmp_path / "cache").iterdir()) == []
    domain = AudioFolderDataModule({"words": "words"}, **options).domains["words"]
    assert len(domain.train_labels) == 8


def test_a_phones_recording_is_tried_again(tmp_path):
    for number in range(5):
        save_tone(tmp_path / "words" / "low" / f"{number}.wav", 200)
    (tmp_path / "words" / "low" / "a.m4a").write_bytes(b"....ftypM4A ")
    data = AudioFolderDataModule(
        {"words": "words"}, root=str(tmp_path), cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(DataError, match="cannot be decoded; convert it to wav"):
        _ = data.domains
    assert list((tmp_path / "cache").iterdir()) == []
