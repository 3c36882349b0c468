"""A small conditional U-Net, in blocks: what a skip connection carries can stay with a client."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import HuscfError, check_count
from .layers import count_halvings
from .network import LABELS, MAIN, Network, SampleShape

TIME = "time"
#: Of each label, at the first block: they do more than labels at every block (docs/results.md).
NUM_LABEL_MAPS = 8


class UNet(Network):
    """Down, bottom and up again; the first and the last block alone read the label.

    So labels stay with a client whatever its cuts. Time, (B,) in [0, 1], is read by every block
    and crosses a cut. The skip of level i is named "skip<i>"; with equally many blocks of head
    and tail it never leaves the client.

    Source: Ronneberger et al. 2015, with residual blocks and time as in Ho et al. 2020.

    Args:
        shape: Shape of the samples and number of classes; sides a multiple of 4 (64 pixels: 8).
        width: Channels at full size, a multiple of 8; deeper levels have twice as many.
        num_bottom: Blocks at the lowest level, at least 1; more allow more cuts.
    """

    def __init__(self, shape: SampleShape, width: int = 32, num_bottom: int = 1) -> None:
        levels = count_halvings(shape.image_size)
        if shape.image_size % 2**levels:
            raise HuscfError(
                f"image_size {shape.image_size} must be a multiple of {2**levels}: pad or resize "
                "the data"
            )
        if width < 8 or width % 8:
            raise HuscfError(f"U-Net: width is {width}, must be a multiple of 8, at least 8")
        check_count("U-Net: num_bottom", num_bottom, 1)
        wide = 2 * width
        blocks: list[nn.Module] = [UNetStem(shape, width, shape.image_size // 2**levels)]
        channels = width
        for level in range(1, levels):
            blocks.append(UNetDown(channels, wide, level))
            channels = wide
        for index in range(num_bottom):
            blocks.append(UNetBottom(channels, wide, is_first=index == 0))
            channels = wide
        for level in range(levels - 1, 0, -1):
            blocks.append(UNetUp(channels, wide, wide, level))
        blocks.append(UNetOut(channels, width, shape))
        super().__init__(blocks)


class UNetStem(nn.Module):
    """First block, at full size.

    Each label has learned maps that enter beside the sample. Blocks behind read no label, and
    norms would take away much of a label that only shifts whole channels.

    Args:
        shape: Shape of the samples and number of classes; one more label means none.
        width: Channels.
        map_size: Side of a label's maps.
    """

    reads = (MAIN, LABELS, TIME)
    writes = (MAIN, "skip0")
    samplewise = True

    def __init__(self, shape: SampleShape, width: int, map_size: int) -> None:
        super().__init__()
        self.map_size = map_size
        self.maps = nn.Embedding(shape.num_classes + 1, NUM_LABEL_MAPS * map_size**2)
        self.embedding = nn.Embedding(shape.num_classes + 1, 2 * width)
        self.convolution = nn.Conv2d(shape.channels + NUM_LABEL_MAPS, width, 3, padding=1)
        self.residual = ResidualLayer(width, width, 2 * width)

    def forward(self, samples: Tensor, labels: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return activations and the same as a skip, (B, width, S, S)."""
        maps = self.maps(labels).unflatten(1, (NUM_LABEL_MAPS, self.map_size, self.map_size))
        values = self.convolution(join_larger(maps, samples))
        values = self.residual(values, time, self.embedding(labels))
        return values, values


class UNetDown(nn.Module):
    """Halves the map, and leaves a skip.

    Args:
        channels_in: Channels before.
        channels_out: Channels behind.
        level: How often the map has been halved behind the block.
    """

    reads = (MAIN, TIME)
    samplewise = True

    def __init__(self, channels_in: int, channels_out: int, level: int) -> None:
        super().__init__()
        self.writes = (MAIN, f"skip{level}")
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, 2, 1)
        self.residual = ResidualLayer(channels_out, channels_out, 2 * channels_out)

    def forward(self, values: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return activations and the same as a skip, at half the size."""
        values = self.residual(self.convolution(values), time)
        return values, values


class UNetBottom(nn.Module):
    """A block of the lowest level.

    Args:
        channels_in: Channels before.
        channels_out: Channels behind.
        is_first: Whether it halves the map.
    """

    reads = (MAIN, TIME)
    samplewise = True

    def __init__(self, channels_in: int, channels_out: int, is_first: bool) -> None:
        super().__init__()
        stride = 2 if is_first else 1
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, stride, 1)
        self.residual = ResidualLayer(channels_out, channels_out, 2 * channels_out)

    def forward(self, values: Tensor, time: Tensor) -> Tensor:
        """Return activations."""
        return self.residual(self.convolution(values), time)


class UNetUp(nn.Module):
    """Doubles the map and joins the skip of its level.

    Args:
        channels_in: Channels before.
        channels_skip: Channels of the skip.
        channels_out: Channels behind.
        level: Of the skip.
    """

    samplewise = True

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int, level: int) -> None:
        super().__init__()
        self.reads = (MAIN, f"skip{level}", TIME)
        self.residual = ResidualLayer(channels_in + channels_skip, channels_out, 2 * channels_out)

    def forward(self, values: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """Return activations at the size of the skip."""
        return self.residual(join_larger(values, skip), time)


class UNetOut(nn.Module):
    """Last block, at full size.

    Args:
        channels_in: Channels before.
        width: Channels at full size.
        shape: Shape of the samples and number of classes.
    """

    reads = (MAIN, "skip0", LABELS, TIME)
    samplewise = True

    def __init__(self, channels_in: int, width: int, shape: SampleShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.num_classes + 1, 2 * width)
        self.residual = ResidualLayer(channels_in + width, width, 2 * width)
        self.norm = nn.GroupNorm(8, width)
        self.convolution = nn.Conv2d(width, shape.channels, 3, padding=1)

    def forward(self, values: Tensor, skip: Tensor, labels: Tensor, time: Tensor) -> Tensor:
        """Return (B, C, S, S), of any size: the field that the network stands for."""
        values = self.residual(join_larger(values, skip), time, self.embedding(labels))
        return self.convolution(functional.silu(self.norm(values)))


class ResidualLayer(nn.Module):
    """Two convolutions beside a shortcut, scaled and shifted by time and, if given, the label.

    Args:
        channels_in: Channels before.
        channels_out: Channels behind, a multiple of 8.
        condition_dim: Length of the embeddings, even.
    """

    samplewise = True

    def __init__(self, channels_in: int, channels_out: int, condition_dim: int) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.condition = nn.Sequential(
            nn.Linear(condition_dim, condition_dim),
            nn.SiLU(),
            nn.Linear(condition_dim, 2 * channels_out),
        )
        self.norm_in = nn.GroupNorm(8, channels_in)
        self.convolution_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm_out = nn.GroupNorm(8, channels_out)
        self.convolution_out = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        is_same = channels_in == channels_out
        self.shortcut = nn.Identity() if is_same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, values: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Return activations.

        Args:
            values: (B, channels_in, H, W).
            time: (B,) in [0, 1].
            label: (B, condition_dim) embedding, or None.
        """
        condition = embed_time(time, self.condition_dim)
        if label is not None:
            condition = condition + label
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, 1)
        inner = self.convolution_in(functional.silu(self.norm_in(values)))
        inner = self.norm_out(inner) * (1 + scale) + shift
        return self.shortcut(values) + self.convolution_out(functional.silu(inner))


def embed_time(time: Tensor, dim: int) -> Tensor:
    """Return (B, dim) sines and cosines of time, (B,) in [0, 1], at dim / 2 frequencies."""
    steps = torch.arange(dim // 2, device=time.device, dtype=time.dtype)
    angles = 1000 * time[:, None] * torch.exp(-math.log(1e4) / (dim // 2) * steps)
    return torch.cat([angles.sin(), angles.cos()], 1)


def join_larger(values: Tensor, larger: Tensor) -> Tensor:
    """Return a map at the size of a larger one, with that one's channels behind its own."""
    size: Sequence[int] = larger.shape[2:]
    return torch.cat([functional.interpolate(values, list(size), mode="nearest"), larger], 1)
