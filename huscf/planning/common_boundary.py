"""Keeps one boundary of the discriminator at the server for all clients, in any search."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import PlanError
from .genetic import GeneticSettings, search_genetically
from .problem import PlanProblem
from .stage_tables import Ints


def search_comparable(problem: PlanProblem, search: Callable[[PlanProblem], Ints]) -> Ints:
    """Return the (units, 2) solution of a search that knows nothing of `common_boundary`.

    What it finds without the constraint is kept if it has a boundary anyway; else it searches
    once per boundary, among the cuts that leave this one to the server, and the best is taken.

    Args:
        problem: What to search.
        search: Returns the best (units, 2) solution that it finds of a problem.

    Raises:
        PlanError: Where the limits leave no boundary that all clients can have in common.
    """
    free = replace(problem, constraints=replace(problem.constraints, common_boundary=False))
    solution = search(free)
    if not problem.constraints.common_boundary or problem.misses(solution[None])[0] == 0:
        return solution
    parts = [_leave_to_server(free, boundary) for boundary in range(1, problem.num_blocks[1])]
    parts = [part for part in parts if part.is_feasible.any(axis=(1, 2)).all()]
    if not parts:
        raise PlanError(
            "common_boundary: memory and forbidden cuts leave no boundary of the discriminator "
            "that all clients can have at the server; loosen them, or set it to false for cluster "
            "rules that need no features"
        )
    solutions = np.stack([search(part) for part in parts])
    best: Ints = solutions[problem.score(solutions).argmin()]
    return best


def evolve_comparable(
    problem: PlanProblem, seed: int, settings: GeneticSettings | None, warm_start: Ints | None
) -> Ints:
    """Return the best (units, 2) solution of `search_genetically` that keeps `common_boundary`."""
    return search_comparable(
        problem, lambda one: search_genetically(one, seed, settings, warm_start).solution
    )


def _leave_to_server(problem: PlanProblem, boundary: int) -> PlanProblem:
    """Return the problem in which every client has this boundary at the server."""
    head, tail = problem.discriminator.options.T
    is_open = (head <= boundary) & (boundary <= problem.num_blocks[1] - tail)
    return replace(problem, is_feasible=problem.is_feasible & is_open)
