"""Planning where to cut: measured costs, latency models, searches, bounds. Plain torch."""

from .block_costs import BlockCost, PlanCosts, measure_block_costs, measure_plan_costs
from .constraints import Constraints, Objective
from .corrected_latency import CorrectedLatency, Move
from .drift import DriftSchedule
from .fleet import ClientDevice, DevicesFile, Fleet
from .genetic import GeneticSettings, search_genetically
from .latency import LatencyModel
from .paper_costs import PaperCosts, count_paper_costs
from .paper_latency import PaperLatency
from .planner import PlanOptions, PlanSubject, Precision, build_problem
from .problem import PlanProblem, make_problem
from .profiles import DeviceProfile, ServerProfile
from .replanning import (
    MovedBlock,
    ReplanDecision,
    Replanner,
    list_moves,
    match_clients,
    measure_latency,
)
from .result import PlanResult
from .search import SearchSettings, decide_by_turns, prove_bound, search_plan
from .searched_plan import SearchedPlan
from .trade_off import TradeOffPoint, sweep_trade_off

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
    "TradeOffPoint",
    "build_problem",
    "count_paper_costs",
    "decide_by_turns",
    "list_moves",
    "make_problem",
    "match_clients",
    "measure_block_costs",
    "measure_latency",
    "measure_plan_costs",
    "prove_bound",
    "search_genetically",
    "search_plan",
    "sweep_trade_off",
]
