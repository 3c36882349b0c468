"""How a domain's training samples are divided among its clients: pure, seeded functions."""

from abc import ABC, abstractmethod

import numpy as np

from ..errors import DataError, check_count, check_number

_ATTEMPTS = 100


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
        """Shuffle and cut into equal parts; complete."""
        order = rng.permutation(len(labels))
        return [np.sort(part) for part in np.array_split(order, num_clients)]


class LabelExclusionPartitioner(Partitioner):
    """Equal parts, of which each client lacks some random classes and holds a fraction.

    A client keeps what is left of its equal part without its missing classes, but at most
    the drawn fraction of the part's size; the rest is nobody's. Odds need not add up to 1.

    Source: scenarios 2 and 4 of the paper are {0: .25, 2: .3, 3: .1, 4: .1} with shares
    {1: .7, 0.667: .3}; scenario 5 is {2: .4, 3: .6} with shares {1: .5, 0.333: .3, 0.167: .2}.

    Args:
        missing_classes: Odds of every number of missing classes.
        shares: Odds of every fraction, in (0, 1], of its equal part that a client holds at
            most; None is all of it for every client.
        min_partition_size: Fewest samples of a client; draws that give less are repeated.
    """

    def __init__(
        self,
        missing_classes: dict[int, float],
        shares: dict[float, float] | None = None,
        min_partition_size: int = 2,
    ) -> None:
        self.missing_classes = missing_classes
        self.shares = shares or {1.0: 1.0}
        self.min_partition_size = min_partition_size
        check_count("LabelExclusionPartitioner.min_partition_size", min_partition_size, 0)
        _check_odds("LabelExclusionPartitioner.missing_classes", self.missing_classes)
        _check_odds("LabelExclusionPartitioner.shares", self.shares)
        for number in self.missing_classes:
            check_count("LabelExclusionPartitioner.missing_classes", number, 0)
        for share in self.shares:
            check_number("LabelExclusionPartitioner.shares", share, 0, 1, is_open=True)

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Cut into equal parts, then thin every part."""
        classes = np.unique(labels)
        if max(self.missing_classes) >= len(classes):
            raise DataError(
                f"LabelExclusionPartitioner: {max(self.missing_classes)} classes cannot be missing "
                f"where there are {len(classes)}: lower missing_classes"
            )
        parts = IidPartitioner().partition(labels, keys, num_clients, rng)
        return [self._thin(part, labels, classes, rng) for part in parts]

    def _thin(
        self, part: np.ndarray, labels: np.ndarray, classes: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        limit = round(_draw(self.shares, rng) * len(part))
        for _ in range(_ATTEMPTS):
            missing = rng.choice(classes, int(_draw(self.missing_classes, rng)), replace=False)
            kept = part[~np.isin(labels[part], missing)]
            kept = np.sort(rng.permutation(kept)[: max(limit, self.min_partition_size)])
            if len(kept) >= self.min_partition_size:
                return kept
        raise _too_small("LabelExclusionPartitioner", self.min_partition_size)


class DirichletPartitioner(Partitioner):
    """Every class divided in proportions drawn from Dirichlet(alpha); complete.

    Args:
        alpha: Concentration, > 0: 100 is nearly IID, 0.1 leaves few classes to each client.
        min_partition_size: Fewest samples of a client; a draw that gives less is repeated.
    """

    def __init__(self, alpha: float, min_partition_size: int = 2) -> None:
        check_number("DirichletPartitioner.alpha", alpha, 0, is_open=True)
        check_count("DirichletPartitioner.min_partition_size", min_partition_size, 0)
        self.alpha = alpha
        self.min_partition_size = min_partition_size

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Draw proportions per class until every client has enough."""
        by_class = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
        for _ in range(_ATTEMPTS):
            pieces = [self._split(positions, num_clients, rng) for positions in by_class]
            parts = [np.sort(np.concatenate(own)) for own in zip(*pieces, strict=True)]
            if min(len(part) for part in parts) >= self.min_partition_size:
                return parts
        raise _too_small("DirichletPartitioner", self.min_partition_size)

    def _split(
        self, positions: np.ndarray, num_clients: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        ends = _proportional_ends(_draw_proportions(self.alpha, num_clients, rng), len(positions))
        return np.split(positions, ends[:-1])


class QuantitySkewPartitioner(Partitioner):
    """Sizes in proportions drawn from Dirichlet(alpha), each part a random draw; complete.

    Args:
        alpha: Concentration, > 0: 100 gives nearly equal sizes, 0.5 very different ones.
        min_partition_size: Fewest samples of a client, set aside before the draw.
    """

    def __init__(self, alpha: float, min_partition_size: int = 2) -> None:
        check_number("QuantitySkewPartitioner.alpha", alpha, 0, is_open=True)
        check_count("QuantitySkewPartitioner.min_partition_size", min_partition_size, 0)
        self.alpha = alpha
        self.min_partition_size = min_partition_size

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Shuffle and cut at the drawn sizes."""
        spare = len(labels) - self.min_partition_size * num_clients
        if spare < 0:
            raise _too_small("QuantitySkewPartitioner", self.min_partition_size)
        ends = _proportional_ends(_draw_proportions(self.alpha, num_clients, rng), spare)
        ends += self.min_partition_size * np.arange(1, num_clients + 1)
        order = rng.permutation(len(labels))
        return [np.sort(part) for part in np.split(order, ends[:-1])]


class NaturalIdPartitioner(Partitioner):
    """Whole natural keys (speaker, hospital): no key is divided; complete.

    With as many clients as keys, clients follow the sorted keys. With fewer, the largest
    keys are dealt first, each to the client that has least.
    """

    def partition(
        self,
        labels: np.ndarray,
        keys: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Deal out the keys; uses no randomness."""
        if keys is None:
            raise DataError(
                "NaturalIdPartitioner: this data has no natural keys (speaker, client column): "
                "use another partitioner"
            )
        owners, positions, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        if num_clients > len(owners):
            raise DataError(
                f"NaturalIdPartitioner: {num_clients} clients for {len(owners)} natural keys: "
                "lower clients_per_domain"
            )
        return [np.flatnonzero(np.isin(positions, own)) for own in _deal(sizes, num_clients)]


def _deal(sizes: np.ndarray, num_clients: int) -> list[list[int]]:
    """Deal positions of sizes to clients, largest first, each to the client with least."""
    hands: list[list[int]] = [[] for _ in range(num_clients)]
    totals = np.zeros(num_clients)
    for position in np.argsort(-sizes, kind="stable"):
        smallest = int(totals.argmin())
        hands[smallest].append(int(position))
        totals[smallest] += sizes[position]
    return sorted(hands, key=min)


def _draw(odds: dict[int, float] | dict[float, float], rng: np.random.Generator) -> float:
    weights = np.array(list(odds.values()), dtype=float)
    return float(rng.choice(np.array(list(odds), dtype=float), p=weights / weights.sum()))


def _draw_proportions(alpha: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw (count,) proportions; below alpha of about 1e-2 all may underflow to one client."""
    proportions = np.nan_to_num(rng.dirichlet(np.full(count, alpha)))
    if proportions.sum() == 0:
        proportions[rng.integers(count)] = 1.0
    return proportions / proportions.sum()


def _proportional_ends(proportions: np.ndarray, total: int) -> np.ndarray:
    """Return (K,) ascending ends of consecutive pieces of total things; the last is total."""
    ends = np.rint(np.cumsum(proportions) * total).astype(np.int64)
    ends[-1] = total
    return ends


def _check_odds(name: str, odds: dict[int, float] | dict[float, float]) -> None:
    for odd in odds.values():
        check_number(f"odds of {name}", odd, 0)
    if not any(odds.values()):
        raise DataError(f"{name} is {odds}, needs odds >= 0 that are not all 0")


def _too_small(owner: str, size: int) -> DataError:
    return DataError(
        f"{owner}: some client would have fewer than {size} samples: use fewer clients, "
        "or a milder skew"
    )
