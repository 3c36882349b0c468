"""Averages copies of one block over unequal holders: Theta <- A Theta."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..models import find_spectral_norms, renew_spectral_norms

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
def mix_tensors(copies: Sequence[Sequence[Tensor]], matrix: Tensor) -> None:
    """Replace the tensors of every copy by weighted means over the copies, in place.

    Every distinct row is computed once, as a running mean: m <- m + w / W * (x - m), W being the
    sum of the weights so far. So every copy is read once per row that weighs it and written
    once, no copy of all of them is made, and equal copies stay equal bit for bit. Tensors that
    are not floating point (counters) are left alone.

    Args:
        copies: For each of C copies the same T tensors.
        matrix: (C, C), entries >= 0, rows sum to 1.
    """
    floats = [[t for t in tensors if t.is_floating_point()] for tensors in copies]
    if not any(floats):
        return
    receivers: dict[tuple[float, ...], list[int]] = {}
    for index, row in enumerate(matrix.tolist()):
        if row[index] != 1.0:
            receivers.setdefault(tuple(row), []).append(index)
    means = {row: _weighted_mean(floats, row) for row in receivers}
    for row, indices in receivers.items():
        for index in indices:
            torch._foreach_copy_(floats[index], means[row])


def _weighted_mean(copies: Sequence[Sequence[Tensor]], row: Sequence[float]) -> list[Tensor]:
    # A copy that nobody weighs may hold NaN, and 0 * NaN is NaN: leave it out.
    first, *others = [index for index, weight in enumerate(row) if weight > 0]
    mean = [tensor.clone() for tensor in copies[first]]
    total = row[first]
    for index in others:
        total += row[index]
        torch._foreach_lerp_(mean, list(copies[index]), row[index] / total)
    return mean


@torch.no_grad()
def mix_blocks(blocks: Sequence[nn.Module], matrix: Tensor) -> None:
    """Replace the state of every copy of a block by weighted means over the copies, in place.

    Running statistics are pooled: the variance of the mixture, which is the mean variance and
    the spread of the means. Estimates of spectral norms are those of the mixed weights.

    Args:
        blocks: C copies.
        matrix: (C, C), entries >= 0, rows sum to 1.
    """
    norms = list(zip(*(_tracking_norms(block) for block in blocks), strict=True))
    means = [[norm.running_mean.clone() for norm in copies] for copies in norms]
    mix_tensors([block_tensors(block) for block in blocks], matrix)
    spreads: dict[tuple[int, tuple[float, ...]], Tensor] = {}
    for index, row in enumerate(map(tuple, matrix.tolist())):
        if row[index] == 1.0:
            continue
        for which, copies in enumerate(norms):
            if (which, row) not in spreads:
                weighted = [(w, old) for w, old in zip(row, means[which], strict=True) if w > 0]
                mixed = copies[index].running_mean
                spreads[which, row] = torch.stack(
                    [weight * (old - mixed).square() for weight, old in weighted]
                ).sum(0)
            copies[index].running_var += spreads[which, row]
        renew_spectral_norms(find_spectral_norms(blocks[index]))


def block_tensors(block: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a block, always in the same order."""
    return [*block.parameters(), *block.buffers()]


def _tracking_norms(block: nn.Module) -> list[Any]:
    return [m for m in block.modules() if getattr(m, "running_mean", None) is not None]
