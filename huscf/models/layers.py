"""The pieces that the conditional generator and discriminator have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ..errors import HuscfError

Norm = Literal["batch", "group", "none"]


class LabelledBlock(nn.Module, ABC):
    """A block that joins labels to its input, then runs plain layers.

    Attributes:
        layers: What runs on the joined input, in order.
    """

    reads = ("x", "labels")
    layers: Sequence[nn.Module] | nn.Sequential

    @abstractmethod
    def join(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return one tensor, (B, ...), of the input, (B, ...), and labels, (B,) int64."""

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the block's activations; see `join`."""
        values = self.join(inputs, labels)
        for layer in self.layers:
            values = layer(values)
        return values


class SqueezeLogit(nn.Module):
    """Turns (B, 1) into (B,)."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return (B,)."""
        return logits.squeeze(1)


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Build the normalisation of (B, channels, H, W) activations.

    Args:
        norm: "batch" (statistics of one client's batch), "group" (of one sample, so training
            and sampling agree and tiny batches work) or "none".
        channels: Number of channels; "group" uses at most 8 groups.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        groups = max(g for g in range(1, 9) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    return nn.Identity()


def count_halvings(image_size: int) -> int:
    """How often a picture is halved from full size to the generator's first feature map.

    At least twice, and until the map has at most 8 pixels a side: 28 -> 7, 32 -> 8, 64 -> 8.
    """
    halvings = 2
    while image_size / 2**halvings > 8:
        halvings += 1
    return halvings


def plan_strides(num_blocks: int, num_halvings: int) -> list[int]:
    """Stride (2 or 1) of each block; plain blocks stand before the last strided one.

    Source: with 3 and 4 blocks this is the paper's generator (2, 1, 2) and discriminator
    (2, 2, 1, 2).

    Args:
        num_blocks: Blocks to plan, at least num_halvings.
        num_halvings: How many of them have stride 2, at least 1.
    """
    return [2] * (num_halvings - 1) + [1] * (num_blocks - num_halvings) + [2]


def check_network_size(image_size: int, depth: int, width: int) -> int:
    """Return the number of halvings, or say why no network of this size can be built.

    Raises:
        HuscfError: Where the size is not divisible or the depth too small.
    """
    halvings = count_halvings(image_size)
    if image_size % 2**halvings or image_size < 2**halvings:
        raise HuscfError(
            f"image_size {image_size} must be a multiple of {2**halvings}: pad or resize the data"
        )
    if depth < halvings + 2:
        raise HuscfError(
            f"depth {depth} is too small for image_size {image_size}: at least {halvings + 2}"
        )
    if width < 1:
        raise HuscfError(f"width is {width}, must be >= 1")
    return halvings
