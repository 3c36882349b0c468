"""Planning where to cut: measured costs, latency models, searches, bounds. Plain torch."""

from .costs.block_costs import BlockCost, measure_block_costs
from .costs.plan_costs import PlanCosts, StepPass, count_passes, measure_plan_costs
from .costs.step_costs import StepCosts
from .devices.calibration import calibrate_profile
from .devices.drift import DriftSchedule
from .devices.fleet import ClientDevice, DevicesFile, Fleet, load_mapping
from .devices.profiles import DeviceProfile, ServerProfile, parse_profiles
from .latency.corrected import CorrectedLatency
from .latency.events import simulate_step
from .latency.model import LatencyModel
from .latency.overheads import Move
from .paper.costs import PaperCosts, count_paper_costs
from .paper.latency import PaperLatency
from .planner import PlanOptions, PlanSubject, Precision, build_problem
from .problem.building import make_problem
from .problem.constraints import Constraints, Objective
from .problem.plan_problem import PlanProblem
from .replanning import (
    MovedBlock,
    ReplanDecision,
    Replanner,
    list_moves,
    match_clients,
    measure_latency,
)
from .results.result import PlanResult
from .search.genetic import GeneticSettings, search_genetically
from .search.strategies import SearchSettings, decide_by_turns, prove_bound, search_plan
from .searched_plan import SearchedPlan

__all__ = [
    "BlockCost",
    "ClientDevice",
    "Constraints",
    "CorrectedLatency",
    "DeviceProfile",
    "DevicesFile",
    "DriftSchedule",
    "Fleet",
    "GeneticSettings",
    "LatencyModel",
    "Move",
    "MovedBlock",
    "Objective",
    "PaperCosts",
    "PaperLatency",
    "PlanCosts",
    "PlanOptions",
    "PlanProblem",
    "PlanResult",
    "PlanSubject",
    "Precision",
    "ReplanDecision",
    "Replanner",
    "SearchSettings",
    "SearchedPlan",
    "ServerProfile",
    "StepCosts",
    "StepPass",
    "build_problem",
    "calibrate_profile",
    "count_paper_costs",
    "count_passes",
    "decide_by_turns",
    "list_moves",
    "load_mapping",
    "make_problem",
    "match_clients",
    "measure_block_costs",
    "measure_latency",
    "measure_plan_costs",
    "parse_profiles",
    "prove_bound",
    "search_genetically",
    "search_plan",
    "simulate_step",
]
