"""Where networks are cut, where plans come from, and what crosses a cut. Plain torch."""

from .cuts import ClientCuts, ClientPlan, CutPlan, Placement, check_cuts, cut_names
from .flow import Crossing, find_crossing
from .plan_sources import (
    ExplicitPlan,
    PassKind,
    PlanRequest,
    PlanSource,
    ProfilePlan,
    RoundTraffic,
    SavedPlan,
    TracedPass,
    TracedPhase,
    UniformPlan,
    check_plan_fits,
)

__all__ = [
    "ClientCuts",
    "ClientPlan",
    "Crossing",
    "CutPlan",
    "ExplicitPlan",
    "PassKind",
    "Placement",
    "PlanRequest",
    "PlanSource",
    "ProfilePlan",
    "RoundTraffic",
    "SavedPlan",
    "TracedPass",
    "TracedPhase",
    "UniformPlan",
    "check_cuts",
    "check_plan_fits",
    "cut_names",
    "find_crossing",
]
