"""Keeps one boundary of the observed network at the server for all clients, in any search."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...errors import PlanError
from ..latency.stage_tables import Ints
from ..problem.plan_problem import PlanProblem
from .genetic import GeneticSettings, search_genetically


def search_comparable(problem: PlanProblem, search: Callable[[PlanProblem], Ints]) -> Ints:
    """Return the (units, networks) solution of a search that knows nothing of `common_boundary`.

    What it finds without the constraint is kept if it has a boundary anyway; else it searches
    once per boundary, among the cuts that leave this one to the server, and the best is taken.

    Args:
        problem: What to search.
        search: Returns the best (units, networks) solution that it finds of a problem.

    Raises:
        PlanError: Where the limits leave no boundary that all clients can have in common.
    """
    free = replace(problem, constraints=replace(problem.constraints, common_boundary=False))
    solution = search(free)
    if not problem.constraints.common_boundary or problem.misses(solution[None])[0] == 0:
        return solution
    assert problem.observed is not None  # or nothing could be missed
    choices = problem.networks[problem.observed]
    parts = [
        _leave_to_server(free, problem.observed, boundary)
        for boundary in range(1, choices.num_blocks)
    ]
    parts = [part for part in parts if part.is_feasible.any(axis=(1, 2)).all()]
    if not parts:
        raise PlanError(
            "common_boundary: memory and forbidden cuts leave no boundary of the "
            f"{choices.network} that all clients can have at the server; loosen them, or set it to "
            "false for cluster rules that need no features"
        )
    solutions = np.stack([search(part) for part in parts])
    best: Ints = solutions[problem.score(solutions).argmin()]
    return best


def evolve_comparable(
    problem: PlanProblem, seed: int, settings: GeneticSettings | None, warm_start: Ints | None
) -> Ints:
    """Return the best solution of `search_genetically` that keeps `common_boundary`."""
    return search_comparable(
        problem, lambda one: search_genetically(one, seed, settings, warm_start)
    )


def _leave_to_server(problem: PlanProblem, place: int, boundary: int) -> PlanProblem:
    """Return the problem in which every client has this boundary of a network at the server."""
    choices = problem.networks[place]
    head, tail = choices.options.T
    is_open = (head <= boundary) & (boundary <= choices.num_blocks - tail)
    later = tuple(range(1, len(problem.networks) - place))  # axes of later networks
    return replace(problem, is_feasible=problem.is_feasible & np.expand_dims(is_open, later))
