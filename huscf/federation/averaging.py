"""Averages copies of one block over unequal holders: Theta <- A Theta."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

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


@torch.no_grad()
def mix_states(
    states: Sequence[Mapping[str, Tensor]], matrix: Tensor
) -> list[dict[str, Tensor] | None]:
    """Return weighted means over the states of C copies of a block.

    Every distinct row is computed once, as a running mean: m <- m + w / W * (x - m), W being the
    sum of the weights so far. So equal rows share their tensors, and equal copies stay equal bit
    for bit. Running statistics are pooled: the variance is that of the mixture, which is the mean
    variance and the spread of the means.

    Args:
        states: By name the same tensors of every copy. Those that are not floating point
            (counters) are left out of the result.
        matrix: (C, C), entries >= 0, rows sum to 1.

    Returns:
        For every copy its new state, None where its row leaves it as it is.
    """
    floats = [{n: t for n, t in state.items() if t.is_floating_point()} for state in states]
    found: dict[tuple[float, ...], dict[str, Tensor]] = {}
    mixed: list[dict[str, Tensor] | None] = []
    for index, row in enumerate(map(tuple, matrix.tolist())):
        if row[index] == 1.0:
            mixed.append(None)
            continue
        if row not in found:
            found[row] = _weighted_mean(floats, row)
        mixed.append(found[row])
    return mixed


def _weighted_mean(
    states: Sequence[Mapping[str, Tensor]], row: Sequence[float]
) -> dict[str, Tensor]:
    # A copy that nobody weighs may hold NaN, and 0 * NaN is NaN: leave it out.
    first, *others = [index for index, weight in enumerate(row) if weight > 0]
    mean = {name: tensor.clone() for name, tensor in states[first].items()}
    total = row[first]
    for index in others:
        total += row[index]
        if mean:  # PyTorch refuses empty lists
            values = [states[index][name] for name in mean]
            torch._foreach_lerp_(list(mean.values()), values, row[index] / total)
    for name in mean:
        if name.endswith("running_mean"):
            variance = mean[name.removesuffix("mean") + "var"]
            weighted = [(row[index], states[index][name]) for index in (first, *others)]
            spread = [weight * (own - mean[name]).square() for weight, own in weighted]
            variance += torch.stack(spread).sum(0)
    return mean
