"""Differential privacy of single records: clipped and noised gradients of whatever sees them."""

from .engine import PrivateEngine
from .options import DifferentialPrivacy

__all__ = ["DifferentialPrivacy", "PrivateEngine"]
