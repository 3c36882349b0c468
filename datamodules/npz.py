"""Arrays in MedMNIST's .npz layout: any such file, or the MedMNIST family by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .bad_data import BadInput, settle_bad_data
from .domain import Domain
from .federated_datamodule import FederatedDataModule
from .sources import find_inside

Arrays = Mapping[str, np.ndarray]

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


class NpzDataModule(FederatedDataModule):
    """Domains from .npz files with train_images, train_labels, test_images and test_labels.

    Images are (N, H, H) or (N, H, H, 3), uint8, or float in [0, 1]; labels (N,) or (N, 1)
    whole numbers from 0. A val half is left for your own use. Pickled arrays are refused.

    Args:
        files: The .npz file of every domain, relative to root and below it, by domain name.
        class_names: Names of a domain's classes in order of label, by domain name; a label
            outside them is bad data. Without, the training labels say which there are.
        kwargs: As in FederatedDataModule.
    """

    def __init__(
        self,
        files: dict[str, str],
        class_names: dict[str, list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = files
        self.class_names = dict(class_names or {})

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
        class_names = tuple(self.class_names.get(name, ()))
        bad: list[BadInput] = []
        halves: dict[str, Tensor] = {}
        num_classes = len(class_names)
        for split in ("train", "test"):
            images, labels = _check_arrays(f"{name}, {split}", arrays, split)
            num_classes = num_classes or _count_classes(name, labels)
            faults = _find_faults(images, labels, num_classes)
            bad += [BadInput(why, f"{split} row {row}") for row, why in sorted(faults.items())]
            kept = np.setdiff1d(np.arange(len(labels)), list(faults))
            halves[f"{split}_samples"] = _to_samples(images[kept])
            halves[f"{split}_labels"] = torch.from_numpy(labels[kept].astype(np.int64))
        settle_bad_data(name, bad, self.on_bad_data)
        self.bad_data[name] = bad
        return Domain(
            name,
            halves["train_samples"],
            halves["train_labels"],
            halves["test_samples"],
            halves["test_labels"],
            class_names=class_names,
        )


class MedicalDataModule(NpzDataModule):
    """Medical pictures of the MedMNIST family by name, and other files of its layout.

    Every two-dimensional set with one label a picture works: bloodmnist, breastmnist,
    dermamnist, octmnist, organ[acs]mnist, pathmnist, pneumoniamnist, retinamnist,
    tissuemnist. Metrics know each domain's own number of classes.

    Args:
        datasets: Names of MedMNIST sets, or .npz files below root (bccd28.npz); each is a
            domain, named without folder and ending. None is breastmnist and pneumoniamnist.
        size: Side in pixels of the MedMNIST files: 28 reads breastmnist.npz, 64
            breastmnist_64.npz.
        download: Fetch missing MedMNIST sets into root; otherwise nothing is ever downloaded.
        class_names: Names of a file's classes in order of label, by domain name; the MedMNIST
            sets bring their own.
        kwargs: As in FederatedDataModule.
    """

    def __init__(
        self,
        datasets: list[str] | None = None,
        size: Literal[28, 64] = 28,
        download: bool = False,
        class_names: dict[str, list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        names = datasets or ["breastmnist", "pneumoniamnist"]
        files = {_name_file(name): name for name in names if name.endswith(".npz")}
        super().__init__(files=files, class_names=class_names, **kwargs)
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

        info = medmnist.INFO.get(name)
        if info is None or name.endswith("3d") or info["task"] == "multi-label, binary-class":
            raise DataError(
                f"{name} is no MedMNIST set of pictures with one label, nor an .npz file"
            )
        path = self.root / f"{name}{'' if self.size == 28 else f'_{self.size}'}.npz"
        if not path.is_file() and not self.download:
            raise DataError(
                f"{name}: no file {path}: put it there (from {info['url']}), set root or "
                "HUSCF_DATA to the folder that has it, or set download: true"
            )
        self.class_names.setdefault(name, list(info["label"].values()))
        loader = getattr(medmnist, info["python_class"])
        arrays: dict[str, np.ndarray] = {}
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for split in ("train", "test"):
                half = loader(split, download=self.download, root=str(self.root), size=self.size)
                arrays |= {f"{split}_images": half.imgs, f"{split}_labels": half.labels}
        except Exception as error:  # downloads and damaged files raise errors of many kinds
            raise DataError(f"{path} cannot be read: {error}") from error
        return arrays


def _name_file(name: str) -> str:
    """Return the name of the domain of a MedMNIST set or a file."""
    return Path(name).name.removesuffix(".npz")


def read_npz(path: Path) -> Arrays:
    """Read the four arrays of the layout; never a pickle.

    Raises:
        DataError: Where the file is missing, damaged, or lacks an array.
    """
    if not path.is_file():
        raise DataError(f"no file {path}: put it there, or set root or HUSCF_DATA")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in _KEYS}
    except Exception as error:  # damaged archives, streams and headers: errors of many kinds
        raise DataError(f"{path} cannot be read: {error}") from error


def _check_arrays(owner: str, arrays: Arrays, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, H, H) or (N, H, H, C) and labels (N,)."""
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    shape = images.shape
    if images.ndim not in (3, 4) or shape[1] != shape[2] or shape[3:] not in ((), (1,), (3,)):
        raise DataError(f"{owner}: images have shape {shape}, need (N, H, H) or (N, H, H, 3)")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(f"{owner}: images are {images.dtype}, need uint8, or float in [0, 1]")
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        raise DataError(
            f"{owner}: labels are {labels.dtype} {labels.shape}, need one whole number for each "
            f"of {len(images)} images"
        )
    return images, labels.reshape(-1)


def _count_classes(name: str, labels: np.ndarray) -> int:
    """Count the classes by the training labels, which have to be 0, 1, 2, ... without a gap."""
    found = np.unique(labels[labels >= 0])
    if len(found) and int(found[-1]) >= len(found):
        raise DataError(
            f"{name}: the training labels reach {int(found[-1])}, but are only {len(found)} "
            "different ones: say with class_names which classes there are"
        )
    return len(found)


def _find_faults(images: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[int, str]:
    """Return what is wrong with a row, by row."""
    faults: dict[int, str] = {}
    if images.dtype.kind == "f":
        pixels = tuple(range(1, images.ndim))
        outside = ~((images >= 0) & (images <= 1)).all(pixels)
        faults |= {int(row): "pixels outside [0, 1]" for row in np.flatnonzero(outside)}
        unfinite = ~np.isfinite(images).all(pixels)
        faults |= {int(row): "NaN or infinite pixels" for row in np.flatnonzero(unfinite)}
    wrong = (labels < 0) | (labels >= num_classes)
    faults |= {
        int(row): f"label outside the {num_classes} classes" for row in np.flatnonzero(wrong)
    }
    return faults


def _to_samples(images: np.ndarray) -> Tensor:
    """Turn checked images into (N, C, H, H) uint8."""
    if images.dtype.kind == "f":
        images = (images * 255).round().astype(np.uint8)
    if images.ndim == 3:
        images = images[..., None]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
