"""Averages copies of one block over unequal holders: Theta <- A Theta."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .tree_sum import TreeSum

#: Weights of all copies in the mean that a copy becomes.
Row = tuple[float, ...]

CopyT = TypeVar("CopyT", bound=Hashable)


def mixing_matrix(
    holders: Mapping[int, CopyT],
    users: Mapping[CopyT, Sequence[int]],
    clusters: Mapping[int, int],
    weights: Mapping[int, float],
) -> Tensor:
    """Build the row-stochastic matrix A of one block.

    A cluster's average is the weighted mean over its members, each represented by the copy that
    it uses, its own or the server's. Row c, the new value of copy c, is the mean of its users'
    cluster averages: for a client's own copy or a cluster's server copy simply the cluster's
    average, for a server copy that clusters share the mean over them. A copy without users
    stays as it is.

    Args:
        holders: The copy of the block that each client has trained.
        users: Every copy, in row order, and the clients for whom it stands from now on.
        clusters: Cluster by client, 0..k-1.
        weights: Weight by client; those of a cluster sum to 1.

    Returns:
        (C, C) float64, C the number of copies.
    """
    order = {copy: row for row, copy in enumerate(users)}
    sums = [[0.0] * len(order) for _ in range(max(clusters.values()) + 1)]
    for client, copy in holders.items():
        sums[clusters[client]][order[copy]] += weights[client]
    averages = torch.tensor(sums, dtype=torch.float64)
    groups = [tuple(clusters[client] for client in group) for group in users.values()]
    rows = {group: averages[list(group)].mean(0) for group in set(groups) if group}
    same = torch.eye(len(order), dtype=torch.float64)
    return torch.stack([rows.get(group, same[row]) for row, group in enumerate(groups)])


@dataclass
class WeightedMean:
    """A mean over some copies of a block.

    Args:
        weight: Sum of their weights, > 0.
        tensors: By name, floating point.
        is_own: Whether the tensors may be changed; else they are a copy's.
    """

    weight: float
    tensors: dict[str, Tensor]
    is_own: bool = False

    @torch.no_grad()
    def join(self, other: "WeightedMean") -> "WeightedMean":
        """Return the mean over both; equal copies stay equal bit for bit.

        Running statistics are pooled: the variance is that of the mixture.
        """
        weight = self.weight + other.weight
        share = other.weight / weight
        names = [*self.tensors]
        gaps = {
            name.removesuffix("mean") + "var": self.tensors[name] - other.tensors[name]
            for name in names
            if name.endswith("running_mean")
        }
        mean = self.tensors
        if names:  # PyTorch refuses empty lists
            pair = [*mean.values()], [other.tensors[name] for name in names]
            if self.is_own:
                torch._foreach_lerp_(*pair, share)
            else:
                mean = dict(zip(names, torch._foreach_lerp(*pair, share), strict=True))
        for name, gap in gaps.items():
            mean[name] += share * (1 - share) * gap.square()
        return WeightedMean(weight, mean, True)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the mean in memory of its own."""
        if self.is_own:
            return self.tensors
        return {name: tensor.clone() for name, tensor in self.tensors.items()}


@torch.no_grad()
def mix_states(
    states: Sequence[Mapping[str, Tensor]], matrix: Tensor
) -> list[dict[str, Tensor] | None]:
    """Return weighted means over the states of C copies of a block.

    Every distinct row is computed once, as a balanced binary tree over the copies that it weighs,
    in their order: who computes which part of it, one process or several, changes no bit. So
    equal rows share their tensors.

    Args:
        states: By name the same tensors of every copy. Those that are not floating point
            (counters) are left out of the result.
        matrix: (C, C), entries >= 0, rows sum to 1.

    Returns:
        Each copy's new tensors, or None where it stays as it is.
    """
    means: dict[Row, dict[str, Tensor]] = {}
    for row in find_rows(matrix):
        tree = make_tree(row)
        add_leaves(tree, row, enumerate(states))
        mean = tree.result()
        assert mean is not None
        means[row] = mean.own_tensors()
    return spread_rows(means, matrix)


def spread_rows(
    means: Mapping[Row, dict[str, Tensor]], matrix: Tensor
) -> list[dict[str, Tensor] | None]:
    """Return every copy's row among these means; None where it stays as it is."""
    rows = enumerate(map(tuple, matrix.tolist()))
    return [None if row[index] == 1.0 else means[row] for index, row in rows]


def find_rows(matrix: Tensor) -> list[Row]:
    """Return the different rows of a matrix by which copies change."""
    rows = enumerate(map(tuple, matrix.tolist()))
    return list(dict.fromkeys(row for index, row in rows if row[index] != 1.0))


def make_tree(row: Row) -> TreeSum[WeightedMean]:
    """Return a tree with a leaf for every copy that a row weighs."""
    return TreeSum(sum(weight > 0 for weight in row), WeightedMean.join)


def add_leaves(
    tree: TreeSum[WeightedMean], row: Row, states: Iterable[tuple[int, Mapping[str, Tensor]]]
) -> None:
    """Give a row's tree the states of copies, by their place in the row."""
    # A copy that nobody weighs may hold NaN, and 0 * NaN is NaN: it has no leaf.
    leaves = {place: leaf for leaf, place in enumerate(p for p, w in enumerate(row) if w > 0)}
    for place, state in states:
        if place in leaves:
            floats = {name: t for name, t in state.items() if t.is_floating_point()}
            tree.add(leaves[place], WeightedMean(row[place], floats))
