import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from huscf.datamodules import ImageDataModule
from huscf.errors import DataError

FOLDERS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "notmnist": "NotMNIST",
}


def write_idx(path, array, kind=8):
    """Write LeCun's idx format: zero, type (8: uint8), rank, sizes, big-endian; then bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_idx_set(raw, rng, train=40, test=20):
    for split, count in (("train", train), ("t10k", test)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{split}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)


def write_cifar(root, rng, monkeypatch):
    """Write CIFAR-10's pickles; torchvision reads them only under their known MD5."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    checksums = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {
            "data": rng.integers(0, 256, (10, 3072), dtype=np.uint8),
            "labels": list(range(10)),
        }
        checksums[name] = pickle.dumps(content)
    checksums["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    for name, content in checksums.items():
        (folder / name).write_bytes(content)
    known = {name: hashlib.md5(content).hexdigest() for name, content in checksums.items()}
    loader = torchvision.datasets.CIFAR10
    meta = {"filename": "batches.meta", "key": "label_names", "md5": known.pop("batches.meta")}
    monkeypatch.setattr(loader, "meta", meta)
    monkeypatch.setattr(loader, "test_list", [["test_batch", known.pop("test_batch")]])
    monkeypatch.setattr(loader, "train_list", [list(pair) for pair in known.items()])


def write_svhn(root, rng, monkeypatch):
    """Write SVHN's .mat files, where digit 0 has label 10."""
    known = {}
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        pixels = rng.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
        labels = np.where(np.arange(20) % 10 == 0, 10, np.arange(20) % 10)
        scipy.io.savemat(path, {"X": pixels, "y": labels[:, None].astype(np.uint8)})
        known[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)


def test_idx_files_are_read_exactly(tmp_path, rng):
    write_idx_set(tmp_path / "KMNIST" / "raw", rng)
    domain = ImageDataModule(["kmnist"], root=str(tmp_path)).domains["kmnist"]
    stored = (tmp_path / "KMNIST/raw/train-images-idx3-ubyte").read_bytes()[16:]
    assert domain.train_samples.numpy().tobytes() == stored
    assert domain.train_labels.tolist() == [i % 10 for i in range(40)]
    assert domain.test_samples.shape == (20, 1, 28, 28)
    assert domain.class_names[1] == "ki"


def test_grey_and_colour_sets_mix(tmp_path, rng, monkeypatch):
    write_idx_set(tmp_path / "MNIST" / "raw", rng)
    write_cifar(tmp_path, rng, monkeypatch)
    write_svhn(tmp_path, rng, monkeypatch)
    data = ImageDataModule(["mnist", "cifar10", "svhn"], root=str(tmp_path), clients_per_domain=2)
    assert data.sample_shape.channels == 3 and data.sample_shape.image_size == 32
    assert data.domains["cifar10"].train_samples.shape == (50, 3, 32, 32)
    assert data.domains["svhn"].train_labels.tolist()[:11] == [*range(10), 0]
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 6 and all(b.samples.shape[1:] == (3, 32, 32) for b in batch.values())


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("svhn", "train_32x32.mat"),
        ("notmnist", "NotMNIST/raw/train-images-idx3-ubyte"),
    ],
)
def test_a_missing_file_is_named_with_the_remedy(tmp_path, name, file):
    with pytest.raises(DataError, match=f"{name}: no file {tmp_path / file}: .*HUSCF_DATA"):
        _ = ImageDataModule([name], root=str(tmp_path)).domains


def test_one_missing_file_of_four_is_the_one_named(tmp_path, rng):
    write_idx_set(tmp_path / "MNIST" / "raw", rng)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte"):
        _ = ImageDataModule(["mnist"], root=str(tmp_path)).domains


def test_notmnist_is_never_downloaded_from_mnist(tmp_path):
    with pytest.raises(DataError, match="cannot be downloaded"):
        _ = ImageDataModule(["notmnist"], root=str(tmp_path), download=True).domains


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_truncated_file_is_an_error(tmp_path, rng, size):
    write_idx_set(tmp_path / "MNIST" / "raw", rng)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"mnist: the files in .* cannot be read"):
        _ = ImageDataModule(["mnist"], root=str(tmp_path)).domains


@pytest.mark.parametrize(
    ("kind", "dtype", "reason"), [(10, np.uint8, "KeyError"), (12, ">i4", "should be of dtype")]
)
def test_a_file_of_another_type_is_an_error(tmp_path, rng, kind, dtype, reason):
    write_idx_set(tmp_path / "MNIST" / "raw", rng)
    pixels = np.zeros((20, 28, 28), dtype)
    write_idx(tmp_path / "MNIST/raw/t10k-images-idx3-ubyte", pixels, kind)
    with pytest.raises(DataError, match=rf"mnist: the files in .* cannot be read \(.*{reason}"):
        _ = ImageDataModule(["mnist"], root=str(tmp_path)).domains


def test_a_file_that_is_still_compressed_is_an_error(tmp_path, rng):
    write_idx_set(tmp_path / "MNIST" / "raw", rng)
    path = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"cannot be read \(AssertionError.*not compressed"):
        _ = ImageDataModule(["mnist"], root=str(tmp_path)).domains


def test_images_and_labels_of_different_number_are_an_error(tmp_path, rng):
    write_idx_set(tmp_path / "MNIST" / "raw", rng)
    write_idx(tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(19, np.uint8))
    with pytest.raises(DataError, match="mnist, test: labels must be"):
        _ = ImageDataModule(["mnist"], root=str(tmp_path)).domains


def test_a_label_outside_the_classes_is_an_error(tmp_path, rng):
    write_idx_set(tmp_path / "MNIST" / "raw", rng)
    write_idx(tmp_path / "MNIST/raw/train-labels-idx1-ubyte", np.full(40, 10, np.uint8))
    with pytest.raises(DataError, match="label 10 is outside the 10 classes"):
        _ = ImageDataModule(["mnist"], root=str(tmp_path)).domains


def test_altered_pickles_are_not_opened(tmp_path, rng, monkeypatch):
    write_cifar(tmp_path, rng, monkeypatch)
    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps({"altered": True}))
    with pytest.raises(DataError, match="corrupted"):
        _ = ImageDataModule(["cifar10"], root=str(tmp_path)).domains


@pytest.mark.parametrize(
    ("write", "name", "file"),
    [
        (write_cifar, "CIFAR10", "cifar-10-batches-py/test_batch"),
        (write_svhn, "SVHN", "test_32x32.mat"),
    ],
)
def test_a_download_that_was_cut_off_is_fetched_anew(tmp_path, rng, monkeypatch, write, name, file):
    write(tmp_path, rng, monkeypatch)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"cannot be read .*corrupted"):
        _ = ImageDataModule([name.lower()], root=str(tmp_path)).domains

    def fetch(self):
        (tmp_path / file).write_bytes(whole)

    monkeypatch.setattr(getattr(torchvision.datasets, name), "download", fetch)
    data = ImageDataModule([name.lower()], root=str(tmp_path), download=True, clients_per_domain=2)
    labels = data.domains[name.lower()].test_labels
    assert labels.tolist() == [i % 10 for i in range(len(labels))]


def test_what_cannot_be_fetched_is_one_line(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("Error downloading:\nTried one\nTried another")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    with pytest.raises(DataError, match=r"cannot be fetched or read .*Tried one") as caught:
        _ = ImageDataModule(["mnist"], root=str(tmp_path), download=True).domains
    assert "\n" not in str(caught.value)


def test_real_sets_have_their_known_sizes(shared_data):
    data = ImageDataModule(list(FOLDERS), root=str(shared_data), clients_per_domain=5)
    sizes = {n: (len(d.train_labels), len(d.test_labels)) for n, d in data.domains.items()}
    assert sizes["mnist"] == sizes["fashion_mnist"] == (60000, 10000)
    assert sizes["kmnist"] == sizes["notmnist"] == (8000, 2000)
    assert torch.bincount(data.domains["mnist"].train_labels)[0] == 5923
    assert data.sample_shape.num_classes == 10 and len(data.clients) == 20
