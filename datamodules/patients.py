"""Divides a domain so that all samples of a patient are one client's."""

from collections.abc import Iterable

import numpy as np

from ..errors import DataError
from .domain import Domain
from .partitions import Partitioner


def divide(
    domain: Domain, partitioner: Partitioner, num_clients: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return disjoint positions of the domain's training samples for every client.

    Where the domain knows its patients it is these that the partitioner divides, each with the
    label that most of its samples have, so that a patient's samples are never shared out.

    Raises:
        DataError: Where there are too few to divide, or the partitioner's parts are wrong.
    """
    labels, keys = domain.train_labels.numpy(), domain.keys
    if domain.patients is None:
        return _divide(domain.name, "samples", partitioner, labels, keys, num_clients, rng)
    _, first, owner = np.unique(domain.patients, return_index=True, return_inverse=True)
    chosen = None if keys is None else keys[first]
    usual = _find_usual_labels(labels, owner)
    parts = _divide(domain.name, "patients", partitioner, usual, chosen, num_clients, rng)
    return [np.flatnonzero(np.isin(owner, part)) for part in parts]


def _divide(
    name: str,
    units: str,
    partitioner: Partitioner,
    labels: np.ndarray,
    keys: np.ndarray | None,
    num_clients: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    size = len(labels)
    if num_clients > size:
        raise DataError(
            f"domain {name}: {num_clients} clients for {size} {units}; lower clients_per_domain"
        )
    given = partitioner.partition(labels, keys, num_clients, rng)
    parts = _read_parts(given)
    together = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    is_inside = ((together >= 0) & (together < size)).all()
    if len(parts) != num_clients or len(np.unique(together)) != len(together) or not is_inside:
        raise DataError(
            f"{type(partitioner).__name__}: needs {num_clients} parts of positions below "
            f"{size} without a sample in two of them, gave "
            + (f"{len(parts)} parts" if parts else f"{given!r:.80}")
        )
    return parts


def _read_parts(given: object) -> list[np.ndarray]:
    """Return what a partitioner gave as positions; [] where it is nothing of the kind."""
    parts = list(given) if isinstance(given, Iterable) else []
    try:
        read = [np.asarray(part, dtype=np.int64) for part in parts]
    except (TypeError, ValueError):
        return []
    return read if all(part.ndim == 1 for part in read) else []


def _find_usual_labels(labels: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return (P,) the label that most samples of each of P owners have."""
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((owner.max() + 1, len(classes)), dtype=np.int64)
    np.add.at(counts, (owner, label), 1)
    return classes[counts.argmax(1)]
