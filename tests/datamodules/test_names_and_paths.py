"""Names in both Unicode forms, and paths that begin at home."""

import unicodedata

import numpy as np
import pytest

from huscf.datamodules import DigitsDataModule, FolderDataModule, NpzDataModule
from huscf.errors import DataError, HuscfError
from tests.datamodules.test_folder import make_clinic, make_module, save_picture

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Ödem") for form in ("NFC", "NFD"))


def make_sites(root, **names):
    for site, name in names.items():
        for folder in (name, "normal"):
            for number in range(5):
                save_picture(root / site / folder / f"{number}.png", 100 + 50 * (folder == name))
    return FolderDataModule(
        {site: site for site in names}, root=str(root), image_size=8, clients_per_domain=1
    )


def test_a_class_of_a_mac_and_one_of_windows_are_the_same(tmp_path):
    data = make_sites(tmp_path, mac=DECOMPOSED, windows=COMPOSED)
    for domain in data.domains.values():
        assert domain.class_names == ("normal", COMPOSED)
        assert domain.train_samples[domain.train_labels == 1].unique().tolist() == [150]
    assert data.common_class_names == ("normal", COMPOSED)


@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED])
def test_classes_are_found_in_whichever_form_they_are_typed(tmp_path, typed, stored):
    make_sites(tmp_path, clinic=stored)
    domain = make_module(tmp_path, classes=[typed, "normal"]).domains["clinic"]
    assert domain.class_names == (COMPOSED, "normal")


def test_one_class_in_both_forms_within_a_folder_is_one(tmp_path):
    make_sites(tmp_path, clinic=COMPOSED)
    for number in range(5):
        save_picture(tmp_path / "clinic" / DECOMPOSED / f"{number}.png", 150)
    domain = make_module(tmp_path).domains["clinic"]
    assert domain.class_names == ("normal", COMPOSED) and len(domain.train_labels) == 12


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_root_and_cache_may_begin_at_home(home):
    make_clinic(home / "data" / "clinic")
    data = make_module("~/data", cache_dir="~/decoded")
    assert len(data.domains["clinic"].train_labels) == 16
    assert len(list((home / "decoded").iterdir())) == 1


@pytest.mark.parametrize("source", ["~/data/clinic", "~/data/list.csv"])
def test_a_source_may_begin_at_home(home, source):
    make_clinic(home / "data" / "clinic")
    rows = [f"~/data/clinic/{c}/{n}.png,{c}" for c in ("ill", "well") for n in range(10)]
    (home / "data" / "list.csv").write_text("path,label\n" + "\n".join(rows))
    assert len(make_module(home / "data", source=source).domains["clinic"].train_labels) == 16
    with pytest.raises(DataError, match="outside the data folder"):
        _ = make_module(home / "other", source=source).domains


def test_the_variables_may_begin_at_home(home, monkeypatch):
    monkeypatch.setenv("HUSCF_DATA", "~/data")
    assert DigitsDataModule().root == home / "data"
    monkeypatch.setenv("HUSCF_CACHE", "~/kept")
    make_clinic(home / "data" / "clinic")
    data = FolderDataModule({"clinic": "clinic"}, clients_per_domain=2)
    assert len(data.domains) == 1 and (home / "kept").is_dir()


def test_an_array_file_may_begin_at_home(home, rng):
    images = rng.integers(0, 255, (8, 8, 8), dtype=np.uint8)
    labels = np.arange(8) % 2
    arrays = {
        f"{s}_{k}": v
        for s in ("train", "test")
        for k, v in (("images", images), ("labels", labels))
    }
    (home / "data").mkdir()
    np.savez(home / "data" / "a.npz", **arrays)
    data = NpzDataModule({"a": "~/data/a.npz"}, root="~/data")
    assert len(data.domains["a"].train_labels) == 8


def test_a_home_that_is_nobodys_is_named():
    with pytest.raises(HuscfError, match="~nobody-of-that-name/x: there is no such home folder"):
        DigitsDataModule(root="~nobody-of-that-name/x")
