"""One label a sample out of the arrays in which people keep labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from ..errors import DataError

Names = Sequence[str] | Mapping[int, str]


def read_labels(owner: str, labels: np.ndarray, count: int, column: int | None) -> np.ndarray:
    """Return (N,) whole numbers or texts.

    Args:
        owner: Whose, for messages.
        labels: (N,) or (N, 1) whole numbers, also as floats, or texts; or (N, K) with one 1 a row.
        count: N, the number of pictures.
        column: Which of K findings, from 0, is the class; None where a sample has one label.

    Raises:
        DataError: Where a sample has none or several.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        labels = _choose_column(owner, labels, column)
    is_whole = labels.dtype.kind == "f" and (labels == np.rint(labels)).all()
    if is_whole and np.abs(labels).max(initial=0) < 1 << 31:
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iuU" or labels.shape != (count,):
        raise DataError(
            f"{owner}: labels are {labels.dtype} {labels.shape}, need one whole number for each "
            f"of {count} images"
        )
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def number_classes(name: str, labels: np.ndarray, names: Names | None) -> list[Any]:
    """Return the labels that there may be, in order of class number.

    Args:
        name: The domain's, for messages.
        labels: (N,) of its training half.
        names: Names of the classes in order of label, or by label; as many as labels from 1 name
            these; None takes the labels found, which have to be without a gap from 0 or 1.

    Raises:
        DataError: Where there is a gap, or texts are named anew.
    """
    if labels.dtype.kind == "U":
        if names is not None:
            raise DataError(f"{name}: the labels are texts, which class_names cannot name anew")
        return np.unique(labels).tolist()
    if isinstance(names, Mapping):
        return sorted(names)
    found = np.unique(labels[labels >= 0]).tolist()
    starts_at_one = bool(found) and found[0] == 1
    if names is not None:
        start = int(starts_at_one and found[-1] == len(names))
        _say_start(name, start, names)
        return list(range(start, start + len(names)))
    if found and found[-1] >= len(found) + starts_at_one:
        raise DataError(
            f"{name}: the training labels reach {found[-1]}, but are only {len(found)} "
            "different ones: say which classes there are with class_names, in order of label, or "
            f"by label: {{{name}: {{{found[0]}: a name, ...}}}}"
        )
    _say_start(name, int(starts_at_one), found)
    return list(range(int(starts_at_one), found[-1] + 1)) if found else []


def name_classes(labels: Sequence[Any], names: Names | None) -> tuple[str, ...]:
    """Return the name of every class; () where they are numbers from 0 that nobody named."""
    if isinstance(names, Mapping):
        return tuple(names[label] for label in labels)
    if names is not None:
        return tuple(names)
    return () if list(labels) == list(range(len(labels))) else tuple(map(str, labels))


def _say_start(name: str, start: int, names: Sequence[Any]) -> None:
    if start:
        rank_zero_warn(
            f"{name}: the labels run from 1, not 0: class 0 is label 1 ({names[0]}), the last one "
            f"label {len(names)} ({names[-1]}); if that is wrong, name the classes by label with "
            f"class_names: {{{name}: {{1: a name, ...}}}}",
            stacklevel=5,
        )


def _choose_column(owner: str, labels: np.ndarray, column: int | None) -> np.ndarray:
    is_binary = labels.dtype.kind in "iufb" and np.isin(labels, (0, 1)).all()
    if column is not None:
        if column >= labels.shape[1]:
            raise DataError(f"{owner}: label_from is {column}, there are {labels.shape[1]} columns")
        return labels[:, column].astype(np.int64) if is_binary else labels[:, column]
    if is_binary and (labels.sum(1) == 1).all():
        return labels.argmax(1)
    raise DataError(
        f"{owner}: labels are {labels.dtype} {labels.shape}, need one whole number for each of "
        f"{len(labels)} images: choose one of the {labels.shape[1]} columns with label_from"
    )
