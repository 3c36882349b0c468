"""How a domain's training samples are divided among its clients: pure, seeded functions."""

from abc import ABC, abstractmethod

import numpy as np


class Partitioner(ABC):
    """Divides one domain's samples; subclass it for another rule."""

    @abstractmethod
    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Return disjoint, ascending positions for every client.

        Args:
            labels: (N,) labels of the samples.
            keys: (N,) natural keys, or None where the domain has none.
            num_clients: Number of parts to make.
            rng: Only source of randomness.

        Raises:
            DataError: Where the samples cannot be divided like that.
        """


class IidPartitioner(Partitioner):
    """Equal parts (sizes differ by at most one), each a random draw from all classes."""

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Shuffle and cut into equal parts."""
        order = rng.permutation(len(labels))
        return [np.sort(part) for part in np.array_split(order, num_clients)]
