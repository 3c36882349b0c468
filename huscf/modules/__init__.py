"""LightningModules: the segment, and the root that owns clients and server."""

from .client import Client
from .optimizer_state import Moments
from .segment import Segment
from .server import PerCluster, Server
from .split_gan import SplitGAN

__all__ = ["Client", "Moments", "PerCluster", "Segment", "Server", "SplitGAN"]
