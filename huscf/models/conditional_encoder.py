"""The conditional encoder: sample and label in, a draw from the latent posterior out."""

import torch
from torch import Tensor, nn

from ..errors import check_count
from .conditional_discriminator import ConditionalDiscriminator
from .layers import Norm
from .network import MAIN, Network, SampleShape

#: Names of what the encoder's last block reads and writes beside the latent vector.
EPSILON, MEAN, LOG_VARIANCE = "epsilon", "mean", "log_variance"


class ConditionalEncoder(Network):
    """The discriminator's convolutions, and an output block that draws the latent vector.

    Args:
        shape: Shape of the samples and number of classes.
        latent_dim: Length of the latent vector.
        width: Channels of the first block.
        depth: Number of blocks, at least 4 (5 for 64 pixels).
        norm: Normalisation: "batch" (statistics per client), "group" or "none".
    """

    def __init__(
        self,
        shape: SampleShape,
        latent_dim: int,
        width: int = 64,
        depth: int = 5,
        norm: Norm = "batch",
    ) -> None:
        check_count("encoder: latent_dim", latent_dim, 1)
        *blocks, last = ConditionalDiscriminator(shape, width, depth, norm)
        linear = next(module for module in last.modules() if isinstance(module, nn.Linear))
        super().__init__([*blocks, LatentBlock(linear.in_features, latent_dim)])


class LatentBlock(nn.Module):
    """Last block: mean and logarithm of the variance, and a draw with the given noise.

    Args:
        features: Length of the flattened activations.
        latent_dim: Length of the latent vector.
    """

    reads = (MAIN, EPSILON)
    writes = (MAIN, MEAN, LOG_VARIANCE)
    samplewise = True

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)

    def forward(self, values: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return latent vector, mean and log variance, (B, latent_dim) each.

        Args:
            values: (B, C, H, W).
            epsilon: (B, latent_dim) from N(0, 1).
        """
        mean, log_variance = self.linear(values.flatten(1)).chunk(2, 1)
        return mean + torch.exp(0.5 * log_variance) * epsilon, mean, log_variance
