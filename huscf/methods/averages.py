"""Who is averaged with whom, and how much each counts: a network's average at a round's end."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Average:
    """One network's average.

    Args:
        clusters: Cluster of every client, 0..k-1.
        weights: Weight of every client, >= 0; those of a cluster sum to 1.
        keepers: Clients that count in it, and go on with what they have.
    """

    clusters: Mapping[int, int]
    weights: Mapping[int, float]
    keepers: frozenset[int] = frozenset()


def weigh_by_softmax(
    figures: Mapping[int, float], counted: Mapping[int, float]
) -> dict[int, float]:
    """Return exp(figure) over the sum of those of everybody that counts.

    Args:
        figures: By client, or whatever else is weighed.
        counted: Weights by the same names; where one is 0, so is the result.
    """
    names = [name for name in figures if counted[name] > 0]
    values = torch.tensor([figures[name] for name in names], dtype=torch.float64)
    shares = dict(zip(names, values.softmax(0).tolist(), strict=True))
    return {name: shares.get(name, 0.0) for name in counted}
