"""Weights that are divided by an estimate of their spectral norm, and how the estimate keeps up."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList


def find_spectral_norms(network: nn.Module) -> list[ParametrizationList]:
    """Return the weights that spectral normalisation divides by an estimate of their norm."""
    lists = (module for module in network.modules() if isinstance(module, ParametrizationList))
    return [each for each in lists if any(isinstance(own, _SpectralNorm) for own in each)]


@torch.no_grad()
def renew_spectral_norms(weights: Iterable[ParametrizationList], num_iterations: int = 15) -> None:
    """Let estimates of norms follow weights that have changed otherwise than by training.

    Args:
        weights: From `find_spectral_norms`.
        num_iterations: Power iterations; a pass in training is one, PyTorch begins with 15.
    """
    for weight in weights:
        was_training = weight.training
        weight.train()
        for _ in range(num_iterations):
            weight()
        weight.train(was_training)
