"""Differential privacy, of single records by their gradients, and of whole clients by averages."""

from .averages import PrivateAverages, check_hides_clients
from .checks import check_private
from .engine import PrivateEngine
from .options import ClientPrivacy, DifferentialPrivacy

__all__ = [
    "ClientPrivacy",
    "DifferentialPrivacy",
    "PrivateAverages",
    "PrivateEngine",
    "check_hides_clients",
    "check_private",
]
