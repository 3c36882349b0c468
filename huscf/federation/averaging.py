"""Averages copies of one block over unequal holders: Theta <- A Theta."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

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
    average, for a server copy that clusters share the mean over them.

    Args:
        holders: The copy of the block that each client uses.
        users: Every copy, in row order, and the clients for whom it stands (at least one).
        clusters: Cluster by client, 0..k-1.
        weights: Weight by client; those of a cluster sum to 1.

    Returns:
        (C, C) float64, C the number of copies.
    """
    order = {copy: row for row, copy in enumerate(users)}
    averages = torch.zeros(max(clusters.values()) + 1, len(order), dtype=torch.float64)
    for client, copy in holders.items():
        averages[clusters[client], order[copy]] += weights[client]
    rows = [averages[[clusters[client] for client in group]].mean(0) for group in users.values()]
    return torch.stack(rows)


@torch.no_grad()
def mix_tensors(copies: Sequence[Sequence[Tensor]], matrix: Tensor) -> None:
    """Replace the tensors of every copy by weighted sums over the copies, in place.

    Works on differences to one copy: equal copies stay equal bit for bit. Tensors that
    are not floating point (counters) are left alone.

    Args:
        copies: For each of C copies the same T tensors.
        matrix: (C, C), rows sum to 1.
    """
    identity = torch.eye(len(copies), dtype=matrix.dtype)
    changed = [row for row in range(len(copies)) if not torch.equal(matrix[row], identity[row])]
    if not changed:
        return
    # A copy that nobody weighs may hold NaN, and 0 * NaN is NaN: leave it out.
    used = matrix[changed].abs().sum(0).nonzero().flatten().tolist()
    weights = matrix[changed][:, used]
    for tensors in zip(*copies, strict=True):
        if not tensors[0].is_floating_point():
            continue
        stacked = torch.stack([tensors[column].flatten() for column in used])
        reference = stacked[0].clone()
        mixed = weights.to(stacked) @ stacked.sub_(reference) + reference
        for row, value in zip(changed, mixed, strict=True):
            tensors[row].copy_(value.view_as(tensors[row]))


def block_tensors(block: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a block, always in the same order."""
    return [*block.parameters(), *block.buffers()]
