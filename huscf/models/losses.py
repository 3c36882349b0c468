"""Adversarial losses on logits; each is the mean over one client's own batch."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import HuscfError


class AdversarialLoss(ABC):
    """A pair of losses that a client's discriminator tail computes from its logits.

    WGAN-GP is not among them: its penalty needs second derivatives through the server's
    blocks, and only first derivatives cross a cut.

    Attributes:
        boundary: The logit above which a discriminator takes a sample for real.
    """

    boundary = 0.0

    @abstractmethod
    def discriminator(self, logits: Tensor, is_real: bool) -> Tensor:
        """Loss of the discriminator on one batch that is all real or all fake.

        Args:
            logits: (B,).
            is_real: What the samples are.
        """

    @abstractmethod
    def generator(self, logits: Tensor) -> Tensor:
        """Loss of the generator on its own samples.

        Args:
            logits: (B,) of fake samples.
        """


class NonSaturatingLoss(AdversarialLoss):
    """Binary cross-entropy; the generator maximises log D(G(z)), as in the paper.

    Source: Goodfellow et al. 2014, section 3.

    Args:
        real_target: Target for real samples; below 1 is one-sided label smoothing.
    """

    def __init__(self, real_target: float = 1.0) -> None:
        self.real_target = real_target

    def discriminator(self, logits: Tensor, is_real: bool) -> Tensor:
        """Cross-entropy with the target (real_target or 0)."""
        target = logits.new_full(logits.shape, self.real_target if is_real else 0.0)
        return functional.binary_cross_entropy_with_logits(logits, target)

    def generator(self, logits: Tensor) -> Tensor:
        """Cross-entropy with the target 1."""
        ones = torch.ones_like(logits)
        return functional.binary_cross_entropy_with_logits(logits, ones)


class HingeLoss(AdversarialLoss):
    """Hinge loss (Lim and Ye 2017; Miyato et al. 2018)."""

    def discriminator(self, logits: Tensor, is_real: bool) -> Tensor:
        """Mean of max(0, 1 - logit) for real samples, max(0, 1 + logit) for fakes."""
        return functional.relu(1.0 - logits if is_real else 1.0 + logits).mean()

    def generator(self, logits: Tensor) -> Tensor:
        """Minus the mean logit."""
        return -logits.mean()


class LeastSquaresLoss(AdversarialLoss):
    """Least-squares loss with targets 1 and 0 (Mao et al. 2017)."""

    boundary = 0.5

    def discriminator(self, logits: Tensor, is_real: bool) -> Tensor:
        """Mean squared distance to the target (1 or 0)."""
        return (logits - float(is_real)).square().mean()

    def generator(self, logits: Tensor) -> Tensor:
        """Mean squared distance to 1."""
        return (logits - 1.0).square().mean()


def check_scalar(owner: str, value: Any) -> Tensor:
    """Return a loss's value, which needs to be the mean over the batch.

    Raises:
        HuscfError: Naming the owner, where it is no scalar tensor.
    """
    if isinstance(value, Tensor) and not value.ndim:
        return value
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise HuscfError(
        f"{owner}: needs to return a scalar tensor, the mean over the batch, got {got}"
    )
