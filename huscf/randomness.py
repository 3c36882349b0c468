"""Random streams that are derived, not shared: same (seed, purpose, ids) gives the same stream."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str, *ids: int) -> int:
    """Return a 63-bit seed for one purpose and its ids (client, step, round, ...)."""
    return _digest(8, seed, purpose, ids) >> 1


def make_generator(seed: int, purpose: str, *ids: int) -> torch.Generator:
    """Return a CPU torch generator for one purpose and its ids."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *ids))


def make_rng(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose and its ids."""
    return np.random.default_rng(derive_seed(seed, purpose, *ids))


def make_wide_rng(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return a NumPy generator for numbers that hide others, of a seed that is secret.

    There are 2^128 of them. Of torch's there are 2^32, whatever their seed: whoever sees numbers
    under their noise can try all, and of some ten thousand two are likely to be alike.
    """
    return np.random.default_rng(_digest(32, seed, purpose, ids))


def draw_hiding(rng: np.random.Generator, like: Tensor) -> Tensor:
    """Return standard normal numbers of a tensor's shape, type and device.

    Args:
        rng: Of `make_wide_rng`.
        like: Floating point; numbers narrower than 32 bits are rounded from these.
    """
    dtype = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.as_tensor(rng.standard_normal(tuple(like.shape), dtype)).to(like)


def _digest(num_bytes: int, seed: int, purpose: str, ids: tuple[int, ...]) -> int:
    text = ":".join([str(seed), purpose, *map(str, ids)])
    digest = hashlib.blake2b(text.encode(), digest_size=num_bytes).digest()
    return int.from_bytes(digest, "big")
