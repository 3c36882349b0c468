"""How much of one set of points another gives away: their distance correlation."""

import torch
from torch import Tensor


def squared_distance_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return the bias-corrected squared distance correlation of paired rows, a scalar up to 1.

    1 where one is the other moved, turned and scaled; about 0, on either side of it, where they
    have nothing to do with each other; 0 where one of them is constant, or where there are less
    than four rows, of which it says nothing. Without the correction a few dozen rows of a few
    hundred numbers come near 1 whatever they are.

    Source: Szekely and Rizzo 2013, The distance correlation t-test of independence in high
        dimension, J. Multivariate Analysis 117, definition 2; as a penalty on what a client
        sends, then without the correction, Vepakomma et al. 2020, arXiv:2008.09161 (NoPeek).

    Args:
        one: (B, ...) floating point.
        other: (B, ...), likewise.
    """
    if len(one) < 4:
        return torch.zeros((), device=one.device)
    centred = [_centre(points.flatten(1)) for points in (one, other)]
    products = (centred[0] * centred[1]).mean()
    variances = centred[0].square().mean() * centred[1].square().mean()
    # Below: the square root's slope at 0 is infinite.
    return products / variances.clamp(min=torch.finfo(torch.float32).tiny).sqrt()


def _centre(points: Tensor) -> Tensor:
    """Return the distances of all pairs, (B, B), centred so that products estimate without bias."""
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    count = len(points)
    sums = distances.sum(0)
    means = sums / (count - 2)
    whole = sums.sum() / ((count - 1) * (count - 2))
    centred = distances - means - means.unsqueeze(1) + whole
    return centred * (1 - torch.eye(count, dtype=centred.dtype, device=centred.device))
