"""Clients shared out over the processes of torch.distributed; StackedEngine gives the same bits."""

from .engine import RankedEngine
from .ranks import LostProcessError, Ranks

__all__ = ["LostProcessError", "RankedEngine", "Ranks"]
