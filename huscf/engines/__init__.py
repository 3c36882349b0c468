"""Engines run a method's phases over parties; each gives what SerialEngine gives."""

from .base import (
    Batches,
    Engine,
    Mixture,
    Moments,
    Move,
    Observation,
    OnNonFinite,
    ServerGradient,
    StepResult,
)
from .local import LocalEngine, name_crossing
from .mixing import block_topic
from .ranked import LostProcessError, RankedEngine, Ranks
from .serial import SerialEngine
from .stacked import StackedEngine

__all__ = [
    "Batches",
    "Engine",
    "LocalEngine",
    "LostProcessError",
    "Mixture",
    "Moments",
    "Move",
    "Observation",
    "OnNonFinite",
    "RankedEngine",
    "Ranks",
    "SerialEngine",
    "ServerGradient",
    "StackedEngine",
    "StepResult",
    "block_topic",
    "name_crossing",
]
