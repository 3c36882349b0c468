"""Latency against traffic or energy: the best plans under ever tighter limits."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import PlanError
from ..split import CutPlan
from .common_boundary import evolve_comparable
from .constraints import Objective
from .problem import PlanProblem
from .search import SearchSettings
from .stage_tables import Ints

Rival = Literal["bytes", "energy"]


@dataclass(frozen=True)
class TradeOffPoint:
    """One plan that no other of the sweep beats in both figures.

    Args:
        plan: The cuts.
        latency_s: Seconds of a step.
        rival: Bytes or joules of all clients in a step.
    """

    plan: CutPlan
    latency_s: float
    rival: float


def sweep_trade_off(
    problem: PlanProblem, against: Rival, settings: SearchSettings, num_points: int = 9
) -> list[TradeOffPoint]:
    """Search the fastest plan under limits from loose to the least that is possible.

    Args:
        problem: The problem; its own limits stay in force.
        against: What is limited.
        settings: Seed and settings of the genetic search.
        num_points: Limits to try, at least 2.

    Returns:
        Points by rising latency, the dominated ones left out.

    Raises:
        PlanError: Where energy is wanted and a profile has no power_w.
    """
    for client in problem.fleet.clients if against == "energy" else ():
        if client.profile.power_w is None:
            raise PlanError(
                f"--pareto_against energy: profile {client.profile.name} has no power_w"
            )
    fast = replace(problem, objective=Objective())
    goal = Objective(0.0, bytes_weight=1.0) if against == "bytes" else Objective(0.0, 0.0, 1.0)
    frugal = replace(problem, objective=goal)
    ends = [_search(one, settings, None) for one in (fast, frugal)]
    most, least = (_measure(problem, against, solution) for solution in ends)
    solutions = list(ends)
    for limit in np.geomspace(most, least, num_points)[1:-1].tolist():
        if against == "bytes":
            limits = replace(problem.constraints, max_bytes_per_step=limit)
        else:
            limits = replace(problem.constraints, max_energy_j=limit)
        solutions.append(_search(replace(fast, constraints=limits), settings, np.stack(ends)))
    points = [
        TradeOffPoint(
            problem.to_plan(solution),
            float(problem.latency_s(solution[None])[0]),
            _measure(problem, against, solution),
        )
        for solution in solutions
        if problem.excess(solution[None])[0] == 0
    ]
    return keep_undominated(points)


def keep_undominated(points: list[TradeOffPoint]) -> list[TradeOffPoint]:
    """Return the points that no other beats in both figures, by rising latency."""
    kept: list[TradeOffPoint] = []
    for point in sorted(points, key=lambda point: (point.latency_s, point.rival)):
        if not kept or point.rival < kept[-1].rival * (1 - 1e-12):
            kept.append(point)
    return kept


def _search(problem: PlanProblem, settings: SearchSettings, warm_start: Ints | None) -> Ints:
    return evolve_comparable(problem, settings.seed, settings.genetic, warm_start)


def _measure(problem: PlanProblem, against: Rival, solution: Ints) -> float:
    figure = problem.traffic_bytes if against == "bytes" else problem.energy_j
    return float(figure(solution[None])[0])
