"""Cut plans, segments, and the exchange across a cut. Plain torch."""

from .cuts import NETWORK_NAMES, ClientCuts, ClientPlan, CutPlan, NetworkName
from .exchange import Cut, Direction, Exchange, Kind, Parcel, cuts_of, is_finite
from .gradient_sum import GradientSum
from .plan_sources import (
    ExplicitPlan,
    PlanRequest,
    PlanSource,
    ProfilePlan,
    SavedPlan,
    UniformPlan,
    check_plan_fits,
)
from .u_pass import Lane, UPass

__all__ = [
    "NETWORK_NAMES",
    "ClientCuts",
    "ClientPlan",
    "Cut",
    "CutPlan",
    "Direction",
    "Exchange",
    "ExplicitPlan",
    "GradientSum",
    "Kind",
    "Lane",
    "NetworkName",
    "Parcel",
    "PlanRequest",
    "PlanSource",
    "ProfilePlan",
    "SavedPlan",
    "UPass",
    "UniformPlan",
    "check_plan_fits",
    "cuts_of",
    "is_finite",
]
