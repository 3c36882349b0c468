"""Random streams that are derived, not shared: same (seed, purpose, ids) gives the same stream."""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *ids: int) -> int:
    """Return a 63-bit seed for one purpose and its ids (client, step, round, ...)."""
    text = ":".join([str(seed), purpose, *map(str, ids)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_generator(seed: int, purpose: str, *ids: int) -> torch.Generator:
    """Return a CPU torch generator for one purpose and its ids."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *ids))


def make_rng(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose and its ids."""
    return np.random.default_rng(derive_seed(seed, purpose, *ids))
