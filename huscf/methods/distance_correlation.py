"""How much of one set of points another gives away: their distance correlation."""

import torch
from torch import Tensor


def distance_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return the sample distance correlation of paired rows, a scalar from 0 to 1.

    1 where one is the other moved, turned and scaled; near 0, but above it in few rows, where they
    have nothing to do with each other; 0 where one of them is constant.

    Source: Szekely, Rizzo and Bakirov 2007, definition 5; as a penalty on what a client sends,
        Vepakomma et al. 2020, arXiv:2008.09161 (NoPeek).

    Args:
        one: (B, ...) floating point.
        other: (B, ...), likewise.
    """
    centred = [_centre(points.flatten(1)) for points in (one, other)]
    products = (centred[0] * centred[1]).mean()
    variances = centred[0].square().mean() * centred[1].square().mean()
    tiny = torch.finfo(torch.float32).tiny
    # Below: the square root's slope at 0 is infinite.
    return (products.clamp(min=0) / variances.clamp(min=tiny).sqrt()).clamp(min=1e-12).sqrt()


def _centre(points: Tensor) -> Tensor:
    """Return the distances of all pairs, (B, B), with the means of rows and columns taken off."""
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    rows, columns = distances.mean(0, keepdim=True), distances.mean(1, keepdim=True)
    return distances - rows - columns + distances.mean()
