"""Networks as ordered lists of uncuttable blocks, and the losses. Plain torch."""

from .conditional_discriminator import ConditionalDiscriminator
from .conditional_generator import ConditionalGenerator
from .layers import LabelledBlock, SqueezeLogit
from .losses import AdversarialLoss, HingeLoss, LeastSquaresLoss, NonSaturatingLoss
from .network import (
    Network,
    SampleShape,
    check_networks,
    find_spectral_norms,
    initialize_weights,
    renew_spectral_norms,
    run_blocks,
)
from .stacked import BatchStatistics, can_stack, run_stacked

__all__ = [
    "AdversarialLoss",
    "BatchStatistics",
    "ConditionalDiscriminator",
    "ConditionalGenerator",
    "HingeLoss",
    "LabelledBlock",
    "LeastSquaresLoss",
    "Network",
    "NonSaturatingLoss",
    "SampleShape",
    "SqueezeLogit",
    "can_stack",
    "check_networks",
    "find_spectral_norms",
    "initialize_weights",
    "renew_spectral_norms",
    "run_blocks",
    "run_stacked",
]
