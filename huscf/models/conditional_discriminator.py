"""The conditional discriminator: sample and label in, one real/fake logit out."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import HuscfError
from .layers import (
    LabelledBlock,
    Norm,
    SqueezeLogit,
    check_network_size,
    make_norm,
    plan_strides,
)
from .network import LABELS, MAIN, Network, SampleShape

#: Where the label enters.
Conditioning = Literal["plane", "projection", "both"]


class ConditionalDiscriminator(Network):
    """Convolutions and a linear output block; the output is a logit, without sigmoid.

    Source: arXiv:2507.12979. Width 64, depth 5 and 28 grey pixels give the paper's architecture
    (816,737 parameters).

    Args:
        shape: Shape of the samples and number of classes.
        width: Channels of the first block; later blocks have multiples of it.
        depth: Number of blocks, at least 4 (5 for 64 pixels); more blocks allow more cuts.
        norm: Normalisation: "batch" (statistics per client), "group" or "none".
        spectral_norm: Bound every layer's Lipschitz constant by spectral normalisation.
        conditioning: Where the label enters: "plane", as one more plane of the sample, in the first
            block (the paper's); "projection", as a product with the features of the last one
            (Miyato and Koyama 2018, arXiv:1802.05637); or "both".
        minibatch_std: Let the last block see how much the samples of a label differ within a
            client's batch, see `MinibatchStd`, so that a generator whose samples are alike is found
            out. It mixes the samples of a batch.

    Raises:
        HuscfError: For sizes and options that make no network.
    """

    def __init__(
        self,
        shape: SampleShape,
        width: int = 64,
        depth: int = 5,
        norm: Norm = "batch",
        spectral_norm: bool = False,
        conditioning: Conditioning = "plane",
        minibatch_std: bool = False,
    ) -> None:
        if conditioning not in get_args(Conditioning):
            raise HuscfError(
                f"discriminator: conditioning is {conditioning!r}, must be plane, projection or "
                "both"
            )
        has_plane = conditioning != "projection"
        halvings = check_network_size(shape.image_size, depth, width) + 1
        size, channels = shape.image_size, shape.channels + has_plane
        wanted = width
        blocks: list[nn.Module] = []
        for position, stride in enumerate(plan_strides(depth - 1, halvings)):
            if position and stride == 2:
                wanted *= 2
            layers = _convolution(channels, wanted, stride, norm)
            is_stem = has_plane and position == 0
            blocks.append(DiscriminatorStem(shape, layers) if is_stem else layers)
            size, channels = (size // 2 if stride == 2 else size), wanted
        features = channels * size * size
        if conditioning == "plane":
            logit: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(features, 1), SqueezeLogit())
        else:
            logit = ProjectionLogit(features, shape.num_classes)
        if minibatch_std:
            logit = VariedLogit(logit, MinibatchStd(channels, shape.num_classes))
        blocks.append(logit)
        if spectral_norm:
            for block in blocks:
                _normalize_spectra(block)
        super().__init__(blocks)


class DiscriminatorStem(LabelledBlock):
    """First block: the label becomes one more input plane, then the first convolution.

    Args:
        shape: Shape of the samples and number of classes.
        layers: The convolution, norm and activation on shape.channels + 1 planes.
    """

    def __init__(self, shape: SampleShape, layers: nn.Sequential) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.num_classes, shape.image_size**2)
        self.layers = layers

    def join(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Return samples with the label's plane.

        Args:
            samples: (B, C, H, W) in [-1, 1].
            labels: (B,) int64.
        """
        batch, _, height, width = samples.shape
        plane = self.embedding(labels).view(batch, 1, height, width).to(samples.dtype)
        return torch.cat([samples, plane], dim=1)


class ProjectionLogit(nn.Module):
    """Last block: a logit of the features, and what they have of the label's direction.

    Args:
        features: Numbers of a sample before it.
        num_classes: Number of labels.
    """

    reads = (MAIN, LABELS)
    samplewise = True

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(num_classes, features)
        # As large as a linear layer's; PyTorch's own scale, 1, would drown what is learnt.
        nn.init.normal_(self.embedding.weight, std=features**-0.5)

    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return logits, (B,).

        Args:
            values: (B, ...) with so many numbers each.
            labels: (B,) int64.
        """
        flat = values.flatten(1)
        return self.linear(flat).squeeze(1) + (self.embedding(labels) * flat).sum(1)


class MinibatchStd(nn.Module):
    """A logit of how much the samples of a label differ within a batch.

    Source: minibatch standard deviation, Karras et al. 2018 (arXiv:1710.10196), section 3; here
    of each label and channel by itself, and weighed into the logit.

    Args:
        channels: Of the features before it.
        num_classes: Number of labels.
    """

    batchwise = True

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 1)
        self.num_classes = num_classes

    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return logits, (B,); equal for the samples of a label.

        Args:
            values: (B, C, ...).
            labels: (B,) int64.
        """
        return self.linear(self._measure(values, labels)).squeeze(1)

    def _measure(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the standard deviation within each sample's label, (B, C): mean over pixels."""
        with torch.autocast(values.device.type, enabled=False):
            features = values.flatten(1).to(torch.promote_types(values.dtype, torch.float32))
            member = functional.one_hot(labels, self.num_classes).to(features.dtype)
            count = member.sum(0).unsqueeze(1)
            means = member.T @ features / count.clamp(min=1)
            squares = member.T @ (features - means[labels]).square()
            variance = squares / (count - 1).clamp(min=1)
            # The square root of 0, of a label with one sample, has no gradient.
            std = (variance + 1e-8).sqrt().unflatten(1, (values.shape[1], -1)).mean(2)
        return std[labels].to(values.dtype)


class VariedLogit(nn.Module):
    """Last block: the logit of a sample alone, and one of its label's variety in the batch.

    Args:
        logit: Of (B, C, ...) features, and of labels where it is a ProjectionLogit.
        variety: Of features and labels.
    """

    reads = (MAIN, LABELS)
    samplewise = True

    def __init__(self, logit: nn.Module, variety: MinibatchStd) -> None:
        super().__init__()
        self.logit, self.variety = logit, variety

    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return logits, (B,).

        Args:
            values: (B, C, ...).
            labels: (B,) int64.
        """
        given = (values, labels) if isinstance(self.logit, ProjectionLogit) else (values,)
        return self.logit(*given) + self.variety(values, labels)


def _convolution(channels_in: int, channels_out: int, stride: int, norm: Norm) -> nn.Sequential:
    kernel = 4 if stride == 2 else 3
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, 1),
        make_norm(norm, channels_out),
        nn.LeakyReLU(0.2, inplace=True),
    )


def _normalize_spectra(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.utils.parametrizations.spectral_norm(module)
