"""Engines run a method's phases over parties; each gives what SerialEngine gives."""

from .base import (
    Batches,
    ClientBatch,
    Engine,
    LazyBatches,
    Mixture,
    Moments,
    Move,
    Observation,
    OnNonFinite,
    ServerGradient,
    StepResult,
    count_samples,
)
from .crossing import name_crossing
from .local import LocalEngine
from .mixing import block_topic
from .observing import add_to_sums
from .private import (
    ClientPrivacy,
    DifferentialPrivacy,
    PrivateAverages,
    PrivateEngine,
    check_hides_clients,
)
from .processes import Processes
from .ranked import LostProcessError, RankedEngine, Ranks
from .secure_mixing import check_secure, plan_sums
from .serial import SerialEngine
from .stacked import StackedEngine

__all__ = [
    "Batches",
    "ClientBatch",
    "ClientPrivacy",
    "DifferentialPrivacy",
    "Engine",
    "LazyBatches",
    "LocalEngine",
    "LostProcessError",
    "Mixture",
    "Moments",
    "Move",
    "Observation",
    "OnNonFinite",
    "PrivateAverages",
    "PrivateEngine",
    "Processes",
    "RankedEngine",
    "Ranks",
    "SerialEngine",
    "ServerGradient",
    "StackedEngine",
    "StepResult",
    "add_to_sums",
    "block_topic",
    "check_hides_clients",
    "check_secure",
    "count_samples",
    "name_crossing",
    "plan_sums",
]
