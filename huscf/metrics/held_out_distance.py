"""How far generated samples are from a client's own held-out ones, without any classifier."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..models import to_float

#: Samples are compared at no more pixels a side than this.
MAX_SIDE = 16


def held_out_distance(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor
) -> float:
    """Return the energy distance of pixels within classes, the mean over held-out samples.

    It is about 0 where both have one distribution (it may be slightly negative), grows where
    samples are blurred, alike or of another class, and needs no training. Classes of which either
    side has fewer than two samples are left out.

    Source: Szekely and Rizzo 2013, unbiased form, with root mean square differences of pixels.

    Args:
        real: (N, C, H, W) uint8 or in [-1, 1].
        real_labels: (N,) int64.
        fake: (M, C, H, W), as real.
        fake_labels: (M,) int64.

    Returns:
        At most 4; NaN where no class can be compared.
    """
    total, count = 0.0, 0
    for label in real_labels.unique().tolist():
        ours, theirs = _flatten(real[real_labels == label]), _flatten(fake[fake_labels == label])
        if min(len(ours), len(theirs)) < 2:
            continue
        across = torch.cdist(ours, theirs).mean()
        distance = 2 * across - _mean_within(ours) - _mean_within(theirs)
        total += len(ours) * distance.item() / math.sqrt(ours.shape[1])
        count += len(ours)
    return total / count if count else math.nan


def _flatten(samples: Tensor) -> Tensor:
    """Return (N, D) pixels of samples made no larger than needed."""
    values = to_float(samples)
    if values.shape[-1] > MAX_SIDE:
        values = functional.interpolate(values, size=MAX_SIDE, mode="area")
    return values.flatten(1)


def _mean_within(points: Tensor) -> Tensor:
    """Return the mean distance of different points."""
    return torch.pdist(points).mean()
