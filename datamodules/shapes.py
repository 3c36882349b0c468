"""The rule by which domains of different sizes and colours meet in one run."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import DataError
from .domain import Domain

_CHUNK = 2048
_LUMINANCE = (0.299, 0.587, 0.114)


def conform_domains(
    domains: Sequence[Domain], image_size: int | None, channels: int | None
) -> list[Domain]:
    """Bring all domains to one shape.

    Args:
        domains: Domains of any square sizes, with 1 or 3 channels.
        image_size: Side in pixels; None takes the largest of the domains.
        channels: 1 or 3; None takes the largest of the domains.

    Raises:
        DataError: Where channels are neither equal nor 1 and 3.
    """
    shapes = [tuple(domain.train_samples.shape[1:]) for domain in domains]
    size = image_size or max(shape[1] for shape in shapes)
    planes = channels or max(shape[0] for shape in shapes)
    return [
        replace(
            domain,
            train_samples=_fit_all(domain.train_samples, size, planes),
            test_samples=_fit_all(domain.test_samples, size, planes),
        )
        for domain in domains
    ]


def fit_samples(samples: Tensor, size: int, channels: int) -> Tensor:
    """Bring samples to a size and a number of channels.

    Pictures that lack at most an eighth of the size (28 to 32) are padded on all sides by
    repeating their edge; all others are resized (bilinear, antialiased). Grey becomes colour
    by repeating the plane, colour becomes grey by its luminance.

    Args:
        samples: (N, C, H, H), any type.
        size: Wanted side in pixels.
        channels: Wanted channels, 1 or 3, or the samples' own.

    Returns:
        (N, channels, size, size) of the same type; the input itself where nothing changes.

    Raises:
        DataError: Where there is no rule from C to channels.
    """
    samples = _fit_channels(samples, channels)
    lacking = size - samples.shape[2]
    if lacking == 0:
        return samples
    values = samples.float()
    if 0 < lacking <= size // 8:
        before = lacking // 2
        sides = (before, lacking - before, before, lacking - before)
        values = functional.pad(values, sides, mode="replicate")
    else:
        values = functional.interpolate(values, (size, size), mode="bilinear", antialias=True)
    return _cast(values, samples.dtype)


def make_grey(samples: Tensor) -> Tensor:
    """Return colour samples (N, 3, H, W) with their luminance in all three planes."""
    return _fit_channels(_fit_channels(samples, 1), 3)


def _fit_channels(samples: Tensor, channels: int) -> Tensor:
    own = samples.shape[1]
    if own == channels:
        return samples
    if (own, channels) == (1, 3):
        return samples.expand(-1, 3, -1, -1).contiguous()
    if (own, channels) == (3, 1):
        weights = torch.tensor(_LUMINANCE).view(1, 3, 1, 1)
        return _cast((samples.float() * weights).sum(1, keepdim=True), samples.dtype)
    raise DataError(f"no rule from {own} to {channels} channels: pictures have 1 or 3")


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.round_().clamp_(0, 255).to(dtype) if dtype == torch.uint8 else values.to(dtype)


def _fit_all(samples: Tensor, size: int, channels: int) -> Tensor:
    if tuple(samples.shape[1:]) == (channels, size, size):
        return samples
    chunks = [fit_samples(chunk, size, channels) for chunk in samples.split(_CHUNK)]
    return torch.cat(chunks)
