"""Arrays in MedMNIST's .npz layout: any such file, or the MedMNIST family by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, check_count
from .bad_data import BadInput, settle_bad_data
from .domain import Domain
from .federated_datamodule import FederatedDataModule
from .label_arrays import name_classes, number_classes, read_labels
from .paths import find_inside

Arrays = Mapping[str, np.ndarray]

_LARGE, _DENSEST = 1 << 28, 200  # bytes that are harmless; how often smaller real pictures get
_SIZES = (28, 64, 128, 224)
_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


class NpzDataModule(FederatedDataModule):
    """Domains from .npz files with train_images, train_labels, test_images and test_labels.

    Images are (N, H, H) or (N, H, H, 3), uint8, or float in [0, 1]; labels (N,) or (N, 1)
    whole numbers from 0 or 1, texts, or one-hot rows. A val half is left for your own use. Pickled
    arrays are refused.

    Args:
        files: The .npz file of every domain, relative to root and below it, by domain name.
        class_names: Names of a domain's classes, by domain name: in order of label, or by label
            ({1: glioma, 2: meningioma}); a label outside them is bad data. Without, the training
            labels say which there are.
        label_from: Of labels (N, K) with several findings, the column from 0 that is the class
            (0 or 1), by domain name.
        kwargs: As in FederatedDataModule.
    """

    def __init__(
        self,
        files: dict[str, str],
        class_names: dict[str, list[str] | dict[int, str]] | None = None,
        label_from: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = files
        self.class_names = dict(class_names or {})
        self.label_from = dict(label_from or {})
        for name, column in self.label_from.items():
            check_count(f"data.label_from[{name}]", column, 0)

    def load_domains(self) -> list[Domain]:
        """Read every file."""
        return [
            self.make_domain(name, read_npz(find_inside(self.root, file)))
            for name, file in self.files.items()
        ]

    def make_domain(self, name: str, arrays: Arrays) -> Domain:
        """Check arrays of the layout and make a domain of them.

        Args:
            name: The domain's name.
            arrays: The four arrays of the layout.

        Raises:
            DataError: Where a shape or type is wrong, or for bad samples.
        """
        labels = self._read_labels(name, arrays)
        names = number_classes(name, labels["train"], self.class_names.get(name))
        bad: list[BadInput] = []
        halves: dict[str, Tensor] = {}
        for split in ("train", "test"):
            images = _check_images(f"{name}, {split}", arrays[f"{split}_images"])
            faults = _find_faults(images, labels[split], names)
            bad += [BadInput(why, f"{split} row {row}") for row, why in sorted(faults.items())]
            kept = np.setdiff1d(np.arange(len(images)), list(faults))
            numbers = [names.index(label) for label in labels[split][kept].tolist()]
            halves[f"{split}_samples"] = _to_samples(images[kept])
            halves[f"{split}_labels"] = torch.tensor(numbers, dtype=torch.int64)
        settle_bad_data(name, bad, self.on_bad_data)
        self.bad_data[name] = bad
        shown = name_classes(names, self.class_names.get(name))
        return Domain(
            name,
            halves["train_samples"],
            halves["train_labels"],
            halves["test_samples"],
            halves["test_labels"],
            class_names=shown,
        )

    def _read_labels(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """Return one label, a whole number or a text, for each picture of both halves."""
        halves = {split: arrays[f"{split}_labels"] for split in ("train", "test")}
        column = self.label_from.get(name)
        for split, labels in halves.items():
            count = len(arrays[f"{split}_images"])
            halves[split] = read_labels(f"{name}, {split}", labels, count, column)
        return halves


class MedicalDataModule(NpzDataModule):
    """Medical pictures of the MedMNIST family by name, and other files of its layout.

    Every two-dimensional set with one label a picture works: bloodmnist, breastmnist,
    dermamnist, octmnist, organ[acs]mnist, pathmnist, pneumoniamnist, retinamnist,
    tissuemnist. Metrics know each domain's own number of classes.

    Args:
        datasets: Names of MedMNIST sets, or .npz files below root (bccd28.npz); each is a
            domain, named without folder and ending. None is breastmnist and pneumoniamnist.
        size: Side in pixels of the MedMNIST files: 28 reads breastmnist.npz, 64
            breastmnist_64.npz; a name that ends in _64, _128 or _224 has its own.
        download: Fetch missing MedMNIST sets into root; otherwise nothing is ever downloaded.
        class_names: As in NpzDataModule; the MedMNIST sets bring their own.
        label_from: As in NpzDataModule; chestmnist needs it.
        kwargs: As in FederatedDataModule.
    """

    def __init__(
        self,
        datasets: list[str] | None = None,
        size: Literal[28, 64, 128, 224] = 28,
        download: bool = False,
        class_names: dict[str, list[str] | dict[int, str]] | None = None,
        label_from: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        names = ["breastmnist", "pneumoniamnist"] if datasets is None else datasets
        files = {_name_file(name): name for name in names if name.endswith(".npz")}
        super().__init__(files=files, class_names=class_names, label_from=label_from, **kwargs)
        if size not in _SIZES:
            raise DataError(f"data.size is {size}, must be one of {', '.join(map(str, _SIZES))}")
        self.datasets = names
        self.size = size
        self.download = download

    def load_domains(self) -> list[Domain]:
        """Read every set or file, in the order given."""
        return [self.make_domain(_name_file(name), self._read(name)) for name in self.datasets]

    def _read(self, name: str) -> Arrays:
        if name.endswith(".npz"):
            return read_npz(find_inside(self.root, name))
        import medmnist

        set_name, size = _split_size(name, self.size)
        info = medmnist.INFO.get(set_name)
        if info is None or set_name.endswith("3d"):
            raise DataError(
                f"{name} is no MedMNIST set of pictures with one label, nor an .npz file; there "
                f"are {', '.join(each for each in medmnist.INFO if not each.endswith('3d'))}"
            )
        self._name_classes(name, info)
        path = self.root / f"{set_name}{'' if size == 28 else f'_{size}'}.npz"
        if not path.is_file() and not self.download:
            raise DataError(
                f"{name}: no file {path}: put it there (from {info['url']}), set root or "
                "HUSCF_DATA to the folder that has it, or set download: true"
            )
        if path.is_file():
            return read_npz(path)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            loader = getattr(medmnist, info["python_class"])
            loader("train", download=True, root=str(self.root), size=size)
        except Exception as error:  # downloads raise errors of many kinds
            raise DataError(f"{path} cannot be fetched: {error}") from error
        return read_npz(path)

    def _name_classes(self, name: str, info: Mapping[str, Any]) -> None:
        """Let the set name its classes, or choose one of its findings."""
        names = list(info["label"].values())
        if info["task"] == "multi-label, binary-class":
            column = self.label_from.get(_name_file(name))
            if column is None or column >= len(names):
                findings = ", ".join(f"{number} {finding}" for number, finding in enumerate(names))
                raise DataError(
                    f"{name}: a picture has several labels: choose one against the rest with "
                    f"label_from: {{{name}: 0}}; there are {findings}"
                )
            names = [f"no {names[column]}", names[column]]
        self.class_names.setdefault(_name_file(name), names)


def _name_file(name: str) -> str:
    """Return the name of the domain of a MedMNIST set or a file."""
    return Path(name).name.removesuffix(".npz")


def _split_size(name: str, size: int) -> tuple[str, int]:
    """Return the set's name as the package spells it, and its size: breastmnist_128 has its own."""
    start, _, end = name.lower().rpartition("_")
    return (start, int(end)) if end in map(str, _SIZES) else (name.lower(), size)


def read_npz(path: Path) -> Arrays:
    """Read the four arrays of the layout; never a pickle.

    Raises:
        DataError: Where the file is missing, damaged, or lacks an array.
    """
    if not path.is_file():
        raise DataError(f"no file {path}: put it there, or set root or HUSCF_DATA")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            _refuse_bombs(archive.zip)
            return {key: archive[key] for key in _KEYS}
    except Exception as error:  # damaged archives, streams and headers: errors of many kinds
        raise DataError(f"{path} cannot be read: {error}") from error


def _refuse_bombs(archive: ZipFile) -> None:
    """Raise a ValueError where a small file would fill the memory."""
    for member in archive.infolist():
        if member.file_size > max(_LARGE, _DENSEST * member.compress_size):
            raise ValueError(f"{member.filename} would grow to {member.file_size / 1e9:.1f} GB")


def _check_images(owner: str, images: np.ndarray) -> np.ndarray:
    """Return images (N, H, H) or (N, H, H, C)."""
    shape = images.shape
    if images.ndim not in (3, 4) or shape[1] != shape[2] or shape[3:] not in ((), (1,), (3,)):
        raise DataError(f"{owner}: images have shape {shape}, need (N, H, H) or (N, H, H, 3)")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(f"{owner}: images are {images.dtype}, need uint8, or float in [0, 1]")
    return images


def _find_faults(images: np.ndarray, labels: np.ndarray, allowed: Sequence[Any]) -> dict[int, str]:
    """Return what is wrong with a row, by row."""
    faults: dict[int, str] = {}
    if images.dtype.kind == "f":
        pixels = tuple(range(1, images.ndim))
        outside = ~((images >= 0) & (images <= 1)).all(pixels)
        faults |= {int(row): "pixels outside [0, 1]" for row in np.flatnonzero(outside)}
        unfinite = ~np.isfinite(images).all(pixels)
        faults |= {int(row): "NaN or infinite pixels" for row in np.flatnonzero(unfinite)}
    wrong = ~np.isin(labels, allowed)
    faults |= {
        int(row): f"label outside the {len(allowed)} classes" for row in np.flatnonzero(wrong)
    }
    return faults


def _to_samples(images: np.ndarray) -> Tensor:
    """Turn checked images into (N, C, H, H) uint8."""
    if images.dtype.kind == "f":
        images = (images * 255).round().astype(np.uint8)
    if images.ndim == 3:
        images = images[..., None]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
