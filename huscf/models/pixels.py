"""Pixels as bytes and as floats."""

import torch
from torch import Tensor


def to_float(samples: Tensor) -> Tensor:
    """Return uint8 or float samples as float32 in [-1, 1]; any shape."""
    if samples.dtype == torch.uint8:
        return samples.float().div_(127.5).sub_(1)
    return samples.float()


def to_uint8(samples: Tensor) -> Tensor:
    """Return uint8 or float samples in [-1, 1] as uint8; any shape."""
    if samples.dtype == torch.uint8:
        return samples
    return ((samples + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
