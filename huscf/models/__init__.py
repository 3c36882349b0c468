"""Networks as ordered lists of uncuttable blocks, and the losses. Plain torch."""

from .checks import check_network, initialize_weights
from .conditional_discriminator import ConditionalDiscriminator
from .conditional_encoder import ConditionalEncoder
from .conditional_generator import ConditionalGenerator
from .evaluating import DRAWN_AT_ONCE, evaluating, run_first, run_in_parts, run_to_draw
from .layers import LabelledBlock, SqueezeLogit
from .losses import (
    AdversarialLoss,
    HingeLoss,
    LeastSquaresLoss,
    NonSaturatingLoss,
    check_scalar,
)
from .network import (
    LABELS,
    MAIN,
    Carry,
    Network,
    SampleShape,
    inputs_of,
    names_read,
    names_written,
    run_block,
    run_blocks,
)
from .pixels import to_float, to_uint8
from .spectral_norms import find_spectral_norms, renew_spectral_norms
from .unet import UNet

__all__ = [
    "DRAWN_AT_ONCE",
    "LABELS",
    "MAIN",
    "AdversarialLoss",
    "Carry",
    "ConditionalDiscriminator",
    "ConditionalEncoder",
    "ConditionalGenerator",
    "HingeLoss",
    "LabelledBlock",
    "LeastSquaresLoss",
    "Network",
    "NonSaturatingLoss",
    "SampleShape",
    "SqueezeLogit",
    "UNet",
    "check_network",
    "check_scalar",
    "evaluating",
    "find_spectral_norms",
    "initialize_weights",
    "inputs_of",
    "names_read",
    "names_written",
    "renew_spectral_norms",
    "run_block",
    "run_blocks",
    "run_first",
    "run_in_parts",
    "run_to_draw",
    "to_float",
    "to_uint8",
]
