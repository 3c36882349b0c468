import numpy as np
import pytest
import torch

from huscf.datamodules import MedicalDataModule, NpzDataModule
from huscf.datamodules.npz import read_npz
from huscf.errors import DataError


@pytest.fixture
def arrays(rng):
    """24 + 12 colour pictures of 3 classes, in MedMNIST's layout."""
    content = {}
    for split, count in (("train", 24), ("val", 6), ("test", 12)):
        content[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)
        content[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 3)[:, None]
    return content


def load(folder, content, **arguments):
    np.savez(folder / "cells.npz", **content)
    data = NpzDataModule({"cells": "cells.npz"}, root=str(folder), **arguments)
    return data, data.domains["cells"]


def test_arrays_arrive_unchanged(tmp_path, arrays):
    _, domain = load(tmp_path, arrays)
    pixels = domain.train_samples.permute(0, 2, 3, 1).numpy()
    assert (pixels == arrays["train_images"]).all()
    assert domain.train_labels.tolist() == [i % 3 for i in range(24)]
    assert domain.num_classes == 3 and len(domain.test_labels) == 12


def test_grey_floats_become_bytes(tmp_path, arrays):
    for split in ("train", "test"):
        arrays[f"{split}_images"] = arrays[f"{split}_images"][..., 0] / np.float32(255)
    _, domain = load(tmp_path, arrays)
    assert domain.train_samples.shape == (24, 1, 28, 28)
    expected = (arrays["train_images"] * 255).round()
    assert (domain.train_samples[:, 0].numpy() == expected).all()


def spoil_labels(arrays):
    arrays["train_labels"][5] = 9
    arrays["test_labels"][2] = 200


def spoil_pixels(arrays):
    arrays["train_images"] = arrays["train_images"] / np.float32(255)
    arrays["train_images"][5, 3, 3] = np.nan
    arrays["train_images"][7, 3, 3] = 1.5


@pytest.mark.parametrize(
    ("spoil", "message", "left"),
    [
        (spoil_labels, r"cells: 2 bad inputs: 2 x label outside the 3 classes \(train row 5", 23),
        (spoil_pixels, r"1 x NaN or infinite pixels \(train row 5\); 1 x pixels outside", 22),
    ],
)
def test_bad_rows_are_named_then_fatal_or_skipped(tmp_path, arrays, spoil, message, left):
    spoil(arrays)
    names = {"class_names": {"cells": ["red", "white", "platelet"]}}
    with pytest.raises(DataError, match=message):
        load(tmp_path, arrays, **names)
    with pytest.warns(UserWarning, match=message):
        data, domain = load(tmp_path, arrays, on_bad_data="skip", **names)
    assert len(domain.train_labels) == left
    assert len(data.make_manifest()["left_out"]["cells"]) == 2


def test_a_test_label_that_training_never_saw_is_bad(tmp_path, arrays):
    arrays["test_labels"][0] = 3
    with pytest.raises(DataError, match=r"label outside the 3 classes \(test row 0\)"):
        load(tmp_path, arrays)


def test_a_stray_label_makes_no_classes(tmp_path, arrays):
    arrays["train_labels"][4] = 200
    with pytest.raises(DataError, match="reach 200, but are only 4 different ones"):
        load(tmp_path, arrays)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train_images", np.zeros((24, 28, 20), np.uint8), "images have shape"),
        ("train_images", np.zeros((24, 28, 28, 2), np.uint8), "images have shape"),
        ("train_images", np.zeros((24, 28, 28), np.int32), "images are int32"),
        ("train_labels", np.zeros((24, 14), np.uint8), "one whole number for each of 24"),
        ("train_labels", np.zeros(23, np.uint8), "one whole number for each of 24"),
        ("train_labels", np.full(24, 0.5), "labels are float64"),
        ("train_labels", np.array([{"a": 1}] * 24, dtype=object), "cannot be read"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, key, value, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, arrays | {key: value})


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_file_may_hold_no_test_pictures(tmp_path, arrays, dtype):
    images = (np.arange(24) % 2).reshape(24, 1, 1).repeat(8, 1).repeat(8, 2).astype(dtype)
    arrays |= {"train_images": images, "test_images": images[:0]}
    _, domain = load(tmp_path, arrays | {"test_labels": arrays["test_labels"][:0]})
    assert domain.test_samples.shape == (0, 1, 8, 8)
    scale = 255 if dtype == np.float32 else 1
    assert domain.train_samples[:, 0, 0, 0].tolist() == [0, scale] * 12


def test_damaged_and_missing_files_are_named(tmp_path, arrays):
    load(tmp_path, arrays)
    path = tmp_path / "cells.npz"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cells.npz cannot be read"):
        _ = NpzDataModule({"cells": "cells.npz"}, root=str(tmp_path)).domains
    with pytest.raises(DataError, match=r"no file .*gone.npz"):
        _ = NpzDataModule({"cells": "gone.npz"}, root=str(tmp_path)).domains
    del arrays["test_labels"]
    with pytest.raises(DataError, match="test_labels"):
        load(tmp_path, arrays)


def test_damage_anywhere_is_one_line(tmp_path, arrays, rng):
    path = tmp_path / "cells.npz"
    # Alike rows, so that they are compressed and not stored.
    np.savez_compressed(path, **{k: np.zeros_like(v) for k, v in arrays.items()})
    whole = path.read_bytes()
    reasons = set()
    for place in rng.integers(0, len(whole), 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_npz(path)
        except DataError as error:
            reasons.add(type(error.__cause__).__name__)
    assert "error" in reasons  # zlib's
    np.save(tmp_path / "array.npy", arrays["train_images"])
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(DataError, match=r"cells.npz cannot be read"):
        read_npz(path)


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path, arrays, monkeypatch):
    path = tmp_path / "cells.npz"
    monkeypatch.setattr("huscf.datamodules.npz._LARGE", 1 << 20)
    np.savez_compressed(path, **arrays | {"val_images": np.zeros(1 << 21, np.uint8)})
    with pytest.raises(DataError, match=r"cells.npz cannot be read: val_images.npy would grow to"):
        read_npz(path)
    np.savez(path, **arrays | {"val_images": np.zeros(1 << 21, np.uint8)})
    assert len(read_npz(path)["train_images"]) == 24


def test_files_in_subfolders_name_their_domain_without_them(tmp_path, arrays):
    (tmp_path / "site").mkdir()
    np.savez(tmp_path / "site" / "cells.v2.npz", **arrays)
    data = MedicalDataModule(["site/cells.v2.npz"], root=str(tmp_path))
    assert list(data.domains) == ["cells.v2"]


def test_a_path_outside_root_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "secret.npz", **arrays)
    (tmp_path / "data").mkdir()
    for path in ("../secret.npz", str(tmp_path / "secret.npz")):
        with pytest.raises(DataError, match="outside the data folder"):
            _ = NpzDataModule({"x": path}, root=str(tmp_path / "data")).domains


def test_medmnist_names_missing_files_and_unusable_sets(tmp_path):
    with pytest.raises(DataError, match=r"bloodmnist_64.npz: .*HUSCF_DATA.*download: true"):
        _ = MedicalDataModule(["bloodmnist"], size=64, root=str(tmp_path)).domains
    for name in ("organmnist3d", "nomnist"):
        with pytest.raises(DataError, match="is no MedMNIST set"):
            _ = MedicalDataModule([name], root=str(tmp_path)).domains


def test_a_missing_medmnist_set_is_fetched_on_request(tmp_path, arrays, monkeypatch):
    import medmnist

    def fetch(split, download, root, size):
        assert download and size == 64
        np.savez(f"{root}/bloodmnist_64.npz", **arrays)

    monkeypatch.setattr(medmnist, "BloodMNIST", fetch)
    data = MedicalDataModule(["bloodmnist"], size=64, root=str(tmp_path / "new"), download=True)
    with pytest.warns(UserWarning, match="no training sample has class immature"):
        assert data.domains["bloodmnist"].train_labels.tolist() == [i % 3 for i in range(24)]

    def fail(*arguments, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(medmnist, "BloodMNIST", fail)
    with pytest.raises(DataError, match=r"bloodmnist.npz cannot be fetched: no network"):
        _ = MedicalDataModule(["bloodmnist"], root=str(tmp_path), download=True).domains


def test_medmnist_files_of_both_sizes_are_read_by_name(tmp_path, arrays):
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = arrays[f"{split}_images"].repeat(2, 1).repeat(2, 2)[:, :64]
        arrays[f"{split}_images"] = np.pad(
            arrays[f"{split}_images"], ((0, 0), (4, 4), (4, 4), (0, 0))
        )
    np.savez(tmp_path / "bloodmnist_64.npz", **arrays)
    data = MedicalDataModule(["bloodmnist"], size=64, root=str(tmp_path))
    with pytest.warns(UserWarning, match="no training sample has class immature granulocytes"):
        assert data.sample_shape.image_size == 64 and data.sample_shape.num_classes == 3
    assert data.domains["bloodmnist"].class_names[0] == "basophil"


def test_real_medical_sets_mix(shared_data):
    names = ["breastmnist", "pneumoniamnist", "retinamnist", "bccd28.npz"]
    data = MedicalDataModule(names, root=str(shared_data), clients_per_domain=3)
    assert [d.num_classes for d in data.domains.values()] == [2, 2, 5, 3]
    shape = data.sample_shape
    assert (shape.channels, shape.image_size, shape.num_classes) == (3, 28, 5)
    assert torch.bincount(data.domains["breastmnist"].train_labels).tolist() == [147, 399]
    assert torch.bincount(data.domains["bccd28"].test_labels).tolist() == [250, 71, 69]


def test_the_real_cifar_subset_is_an_npz_file(shared_data):
    data = NpzDataModule({"cifar10": "cifar10_jpeg.npz"}, root=str(shared_data))
    assert torch.bincount(data.domains["cifar10"].train_labels).tolist() == [2000] * 10
    assert data.sample_shape.image_size == 32
