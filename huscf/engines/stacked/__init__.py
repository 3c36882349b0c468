"""Everything that only speed needs; SerialEngine gives the same without it."""

from .engine import StackedEngine

__all__ = ["StackedEngine"]
