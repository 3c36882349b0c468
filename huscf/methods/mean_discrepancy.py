"""How far two sets of samples are apart: their maximum mean discrepancy."""

import torch
from torch import Tensor


def mean_discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples, a scalar >= 0.

    The biased estimate, under the Gaussian kernel exp(-d^2 / (2 s^2)), s^2 being half the median of
    the squared distances of all pairs: a fixed s would make all kernels of images 0.

    Source: Gretton et al. 2012, equation 5, and section 8 for the median.

    Args:
        one: (N, ...) floating point.
        other: (M, ...), likewise.
    """
    points = torch.cat([one.flatten(1), other.flatten(1)]).float()
    squares = torch.cdist(points, points, compute_mode="use_mm_for_euclid_dist").square()
    pairs = squares[torch.triu(torch.ones_like(squares, dtype=torch.bool), diagonal=1)]
    kernel = torch.exp(-squares / pairs.median().clamp(min=torch.finfo(torch.float32).tiny))
    count = len(one)
    within = kernel[:count, :count].mean() + kernel[count:, count:].mean()
    return (within - 2 * kernel[:count, count:].mean()).clamp(min=0)
