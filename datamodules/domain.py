"""One source of data, held once in memory, and the part of it that a client owns."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..models import to_float


@dataclass(frozen=True)
class Domain:
    """Real labelled samples of one source: digits, clothes, X-rays, spoken words.

    NumPy arrays and lists are taken too, and labels of any integer type.

    Args:
        name: Used in metric keys, file names and the manifest; never by training.
        train_samples: (N, C, H, W) uint8, H = W.
        train_labels: (N,) int64.
        test_samples: (M, C, H, W) uint8, held out; no client trains on them.
        test_labels: (M,) int64.
        keys: (N,) natural client key of each training sample (speaker, hospital), or None.
        class_names: One name per label, or () for the label's number; labels must fit them.
        patients: (N,) of whom each training sample is, or None; a patient's samples are all one
            client's. Nobody else learns who it is.

    Raises:
        DataError: Naming the domain and the array that does not fit.
    """

    name: str
    train_samples: Tensor
    train_labels: Tensor
    test_samples: Tensor
    test_labels: Tensor
    keys: np.ndarray | None = None
    class_names: tuple[str, ...] = field(default=())
    patients: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._check_name()
        for name in ("train_samples", "train_labels", "test_samples", "test_labels"):
            self._set(name, self._as_tensor(name, getattr(self, name)))
        self._set("class_names", tuple(map(str, self.class_names)))
        for name in ("keys", "patients"):
            if getattr(self, name) is not None:
                self._set(name, self._as_keys(name, getattr(self, name)))
        self._check("train", self.train_samples, self.train_labels)
        self._check("test", self.test_samples, self.test_labels)
        if not len(self.train_labels):
            raise DataError(f"domain {self.name}: no training samples")
        for name in ("keys", "patients"):
            owners = getattr(self, name)
            if owners is not None and owners.shape != self.train_labels.shape:
                count = "x".join(map(str, owners.shape))
                raise DataError(
                    f"domain {self.name}: {count} {name} for {len(self.train_labels)} samples"
                )
        if self.keys is not None and self.patients is not None:
            pairs = set(zip(self.patients.tolist(), self.keys.tolist(), strict=True))
            if len(pairs) > len(np.unique(self.patients)):
                raise DataError(f"domain {self.name}: some patients have two keys")

    @property
    def num_classes(self) -> int:
        """This domain's own number of classes; other domains of the run may have more."""
        return len(self.class_names) or self._max_label() + 1

    def _max_label(self) -> int:
        both = (self.train_labels, self.test_labels)
        return max(int(labels.max()) for labels in both if len(labels))

    def _check_name(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise DataError(
                f"a domain's name is {self.name!r:.80}, must be text such as 'clinic-a', since "
                "files are named by it"
            )
        if any(mark in self.name for mark in "/\\\0"):
            raise DataError(
                f"domain {self.name!r}: a name must have no slash, since files are named by it"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _as_keys(self, name: str, values: Any) -> np.ndarray:
        keys = np.atleast_1d(np.asarray(values, dtype=object))
        if any(key is None or key != key for key in keys.flat):  # only NaN is not itself
            raise DataError(f"domain {self.name}: some {name} are missing (None or NaN)")
        return np.array(keys.tolist())

    def _as_tensor(self, name: str, values: Any) -> Tensor:
        try:
            with warnings.catch_warnings():
                # Arrays that are mapped read-only may stay so: nobody writes into samples.
                warnings.filterwarnings("ignore", ".*not writable.*")
                is_tensor = isinstance(values, Tensor)
                tensor = values if is_tensor else torch.as_tensor(np.ascontiguousarray(values))
        except (TypeError, ValueError) as error:
            raise DataError(f"domain {self.name}: {name} make no tensor: {error}") from error
        is_integer = not (tensor.is_floating_point() or tensor.is_complex())
        is_label = name.endswith("labels") and is_integer and tensor.dtype != torch.bool
        return tensor.long() if is_label else tensor

    def _check(self, split: str, samples: Tensor, labels: Tensor) -> None:
        owner = f"domain {self.name}, {split}"
        if samples.dtype != torch.uint8 or samples.ndim != 4:
            raise DataError(
                f"{owner}: samples must be uint8 (N, C, H, W), "
                f"got {samples.dtype} {tuple(samples.shape)}"
            )
        if samples.shape[2] != samples.shape[3]:
            raise DataError(f"{owner}: samples must be square, got {tuple(samples.shape[2:])}")
        if labels.dtype != torch.int64 or labels.shape != samples.shape[:1]:
            raise DataError(
                f"{owner}: labels must be int64 ({len(samples)},), "
                f"got {labels.dtype} {tuple(labels.shape)}"
            )
        if len(labels) and int(labels.min()) < 0:
            raise DataError(f"{owner}: label {int(labels.min())} is negative")
        if self.class_names and len(labels) and int(labels.max()) >= len(self.class_names):
            raise DataError(
                f"{owner}: label {int(labels.max())} is outside the "
                f"{len(self.class_names)} classes {list(self.class_names)}"
            )


@dataclass(frozen=True)
class ClientData:
    """The training samples that one client owns.

    Args:
        client_id: The client.
        domain: Where they come from; evaluation may read its name, training may not.
        indices: (n,) positions in the domain's training arrays.
        held_out: (m,) positions there of what is the client's too, and never trained on.
    """

    client_id: int
    domain: Domain
    indices: np.ndarray
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.indices)


def scale_samples(samples: Tensor) -> Tensor:
    """Turn uint8 [0, 255] into float32 [-1, 1], the range of every network here."""
    return to_float(samples)
