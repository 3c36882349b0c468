"""The conditional generator: noise and label in, one picture or spectrogram out."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import HuscfError, check_count
from .layers import (
    LabelledBlock,
    Norm,
    check_network_size,
    make_norm,
    plan_strides,
)
from .network import Network, SampleShape

Upsampling = Literal["transposed", "nearest"]


class ConditionalGenerator(Network):
    """Stem, convolutions that double the map, and an output block; tanh at the end.

    Source: arXiv:2507.12979. Width 64, depth 5 and 28 grey pixels give the paper's architecture
    (2,221,925 parameters).

    Args:
        shape: Shape of the samples and number of classes.
        latent_dim: Length of the noise vector.
        width: Channels of the last hidden block; earlier blocks have multiples of it.
        depth: Number of blocks, at least 4 (5 for 64 pixels); more blocks allow more cuts.
        norm: Normalisation: "batch" (statistics per client), "group" or "none".
        embedding_dim: Length of the label embedding; 0 takes the number of classes.
        upsampling: "transposed" convolutions (the paper's), or "nearest": every pixel fourfold,
            then a plain convolution (Odena et al. 2016), 2.25 times the work of a block that
            doubles the map.

    Raises:
        HuscfError: For sizes and options that make no network.
    """

    def __init__(
        self,
        shape: SampleShape,
        latent_dim: int,
        width: int = 64,
        depth: int = 5,
        norm: Norm = "batch",
        embedding_dim: int = 0,
        upsampling: Upsampling = "transposed",
    ) -> None:
        if upsampling not in get_args(Upsampling):
            raise HuscfError(
                f"generator: upsampling is {upsampling!r}, must be transposed or nearest"
            )
        check_count("generator: latent_dim", latent_dim, 1)
        check_count("generator: embedding_dim", embedding_dim)
        halvings = check_network_size(shape.image_size, depth, width)
        channels = width * 2**halvings
        base_size = shape.image_size // 2**halvings
        embedding_dim = embedding_dim or shape.num_classes
        stem = GeneratorStem(
            shape.num_classes, embedding_dim, latent_dim, (channels, base_size), norm
        )
        blocks: list[nn.Module] = [stem]
        grow = _transposed if upsampling == "transposed" else _nearest
        strides = plan_strides(depth - 2, halvings)
        last_strided = len(strides) - 1
        for position, stride in enumerate(strides):
            if stride == 2:
                wanted = width if position == last_strided else max(channels // 2, width)
            else:
                wanted = channels
            layers = [*grow(channels, wanted, stride), make_norm(norm, wanted)]
            blocks.append(nn.Sequential(*layers, nn.ReLU(inplace=True)))
            channels = wanted
        blocks.append(nn.Sequential(*grow(channels, shape.channels, 1), nn.Tanh()))
        super().__init__(blocks)


class GeneratorStem(LabelledBlock):
    """First block: embeds the label, joins it to the noise, and makes the first feature map.

    Args:
        num_classes: Number of labels.
        embedding_dim: Length of the label embedding.
        latent_dim: Length of the noise vector.
        output: Channels and side length of the feature map.
        norm: As in the generator; "batch" normalises every feature apart, as the paper does.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        latent_dim: int,
        output: tuple[int, int],
        norm: Norm,
    ) -> None:
        super().__init__()
        channels, size = output
        features = channels * size * size
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.linear = nn.Linear(latent_dim + embedding_dim, features)
        self.unflatten = nn.Unflatten(1, (channels, size, size))
        # The paper's stem has one statistic per feature, not per channel.
        self.flat_norm = nn.BatchNorm1d(features) if norm == "batch" else nn.Identity()
        self.norm = make_norm(norm, channels) if norm == "group" else nn.Identity()
        self.activation = nn.ReLU(inplace=True)

    @property
    def layers(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """The layers in order; group norm needs the feature map's shape first."""
        if isinstance(self.norm, nn.Identity):
            return (self.linear, self.flat_norm, self.activation, self.unflatten)
        return (self.linear, self.unflatten, self.norm, self.activation)

    def join(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return the label's embedding before the noise.

        Args:
            noise: (B, latent_dim).
            labels: (B,) int64.
        """
        return torch.cat([self.embedding(labels), noise], dim=1)


def _transposed(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    kernel = 4 if stride == 2 else 3
    return [nn.ConvTranspose2d(channels_in, channels_out, kernel, stride, 1)]


def _nearest(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    grow = [nn.Upsample(scale_factor=2)] if stride == 2 else []
    return [*grow, nn.Conv2d(channels_in, channels_out, 3, 1, 1)]
