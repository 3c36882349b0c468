"""Public sets of small pictures, read by torchvision's loaders."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .domain import Domain
from .federated_datamodule import FederatedDataModule

ImageSet = Literal["mnist", "fashion_mnist", "kmnist", "notmnist", "cifar10", "svhn"]

_DIGITS = tuple("0123456789")
_LETTERS = tuple("ABCDEFGHIJ")
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
# fmt: off
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer",
            "dog", "frog", "horse", "ship", "truck")
# fmt: on

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


class _Layout(NamedTuple):
    """Where a set's files are, and the torchvision class that reads them."""

    loader: str
    folder: str
    files: tuple[str, ...]
    class_names: tuple[str, ...]


_LAYOUTS: dict[str, _Layout] = {
    "mnist": _Layout("MNIST", "MNIST/raw", _IDX_FILES, _DIGITS),
    "fashion_mnist": _Layout("FashionMNIST", "FashionMNIST/raw", _IDX_FILES, _CLOTHES),
    "kmnist": _Layout("KMNIST", "KMNIST/raw", _IDX_FILES, _KANA),
    "notmnist": _Layout("NotMNIST", "NotMNIST/raw", _IDX_FILES, _LETTERS),
    "cifar10": _Layout("CIFAR10", "cifar-10-batches-py", _CIFAR_FILES, _OBJECTS),
    "svhn": _Layout("SVHN", ".", ("train_32x32.mat", "test_32x32.mat"), _DIGITS),
}


class ImageDataModule(FederatedDataModule):
    """MNIST, Fashion-MNIST, KMNIST, NotMNIST, CIFAR-10 and SVHN, in any combination.

    Sets of 28 and 32 pixels, grey and colour, mix: see image_size and channels. Each set is
    looked for where torchvision keeps it (root/MNIST/raw, root/cifar-10-batches-py,
    root/train_32x32.mat, ...). CIFAR-10 comes as pickles; torchvision opens them only if
    their MD5 is that of the original files.

    Args:
        datasets: Which sets; each is a domain of ten classes. None is mnist and fashion_mnist.
        download: Fetch missing sets into root, and CIFAR-10 and SVHN anew where their MD5 is
            wrong; otherwise nothing is ever downloaded.
        kwargs: As in FederatedDataModule.
    """

    def __init__(
        self, datasets: list[ImageSet] | None = None, download: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.datasets: list[ImageSet] = ["mnist", "fashion_mnist"] if datasets is None else datasets
        self.download = download

    def load_domains(self) -> list[Domain]:
        """Read every set's training and test half."""
        return [_load_domain(name, self.root, self.download) for name in self.datasets]


def _load_domain(name: str, root: Path, download: bool) -> Domain:
    layout = _LAYOUTS[name]
    folder = root / layout.folder
    missing = [file for file in layout.files if not (folder / file).is_file()]
    if missing and name == "notmnist":
        raise DataError(
            f"notmnist: no file {folder / missing[0]}: convert NotMNIST to MNIST's idx format and "
            "put it there (it cannot be downloaded), or set root or HUSCF_DATA"
        )
    if missing and not download:
        raise DataError(
            f"{name}: no file {folder / missing[0]}: put it there, set root or HUSCF_DATA to the "
            "folder that has it, or set download: true"
        )
    try:
        train = _read_half(layout.loader, root, True, download)
        test = _read_half(layout.loader, root, False, download)
    except Exception as error:  # torchvision reads damaged files with errors of many kinds
        what = "fetched or read" if download else "read"
        raise DataError(
            f"{name}: the files in {folder} cannot be {what} ({error!r}): see that they are whole, "
            "not compressed, and in the format of this set"
        ) from error
    return Domain(name, *train, *test, class_names=layout.class_names)


def _read_half(loader: str, root: Path, is_train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Return samples (N, C, H, W) uint8 and labels (N,) int64."""
    from torchvision import datasets

    class NotMNIST(datasets.MNIST):  # torchvision looks in the folder of the class's name
        classes = list(_LETTERS)  # noqa: RUF012

    if loader == "SVHN":
        split = "train" if is_train else "test"
        svhn = datasets.SVHN(str(root), split=split, download=download)
        return torch.from_numpy(svhn.data.copy()), torch.from_numpy(svhn.labels)
    if loader == "CIFAR10":
        cifar = datasets.CIFAR10(str(root), train=is_train, download=download)
        pixels = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()
        return pixels, torch.tensor(cifar.targets)
    idx_class = NotMNIST if loader == "NotMNIST" else getattr(datasets, loader)
    idx = idx_class(str(root), train=is_train, download=download)
    return idx.data.unsqueeze(1), idx.targets.long()
