"""LightningModules: the segment, and the root that owns clients and server."""

from .client import Client
from .optimizer_state import Moments
from .segment import Segment
from .server import Server
from .split_gan import SplitGAN

__all__ = ["Client", "Moments", "Segment", "Server", "SplitGAN"]
