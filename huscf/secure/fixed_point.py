"""Numbers as whole ones modulo 2^64, so that sums are exact and masks can be uniform."""

import numpy as np
from numpy.typing import NDArray

from ..errors import HuscfError

Words = NDArray[np.uint64]

_SCALE = 2.0**40

#: Distance of two numbers that can be told apart; a number is off by at most half of it.
RESOLUTION = 1 / _SCALE

#: Numbers of members whose weights sum to 1 are at most so large; their sum then fits.
LIMIT = 2.0**22


def encode(values: NDArray[np.floating], weight: float) -> Words:
    """Return weighted numbers as words.

    Args:
        values: (n,), each of size LIMIT at most.
        weight: From 0 to 1; those of all that are added sum to 1 at most.

    Raises:
        HuscfError: Where a number is not finite or too large.
    """
    if not (np.abs(values) <= LIMIT).all():  # False for NaN, too
        raise HuscfError(
            f"secure sums take finite numbers up to {LIMIT:g}; parameters beyond have diverged"
        )
    scaled = np.rint(values.astype(np.float64) * (weight * _SCALE))
    return scaled.astype(np.int64).view(np.uint64)


def decode(words: Words) -> NDArray[np.float64]:
    """Return the sum of weighted numbers that the sum of words, (n,) modulo 2^64, stands for."""
    return words.view(np.int64) / _SCALE
