"""The planning problem as a mixed-integer linear program, for proofs and lower bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..latency.stage_tables import Ints
from ..problem.plan_problem import PlanProblem
from .program_rows import (
    MAGNITUDE,
    Layout,
    Rows,
    add_boundary,
    add_limits,
    add_memory,
    add_stages,
    make_cost,
)


@dataclass(frozen=True)
class ProgramAnswer:
    """What the solver found.

    Args:
        solution: (units, networks) option indices, or None where there is none.
        lower_bound: Proven lower bound of the objective; inf where no plan can exist.
        is_optimal: Whether the solver is done, and thus the solution the best, to its tolerances,
            among plans with one cut per unit.
    """

    solution: Ints | None
    lower_bound: float
    is_optimal: bool


def solve_program(problem: PlanProblem, time_limit_s: float = 60.0) -> ProgramAnswer:
    """Solve the problem to proven optimality, as far as the time allows.

    Args:
        problem: What to solve, with any constraints and objective.
        time_limit_s: Solver time after which the best plan so far is taken.
    """
    return _solve(problem, True, time_limit_s)


def bound_by_relaxation(problem: PlanProblem, time_limit_s: float = 60.0) -> float:
    """Return a proven lower bound of the objective: the program with fractional choices.

    It holds for every plan, also for one that treats clients of one unit differently: averaging
    such a plan over a unit gives a fractional choice that is no worse. `common_boundary` is left
    out, as it can only raise the optimum.
    """
    return _solve(problem, False, time_limit_s).lower_bound


def _solve(problem: PlanProblem, is_integral: bool, time_limit_s: float) -> ProgramAnswer:
    everything = tuple(range(len(problem.networks)))
    if problem.limits_memory or problem.constraints.has_limits:
        return _solve_networks(problem, everything, is_integral, time_limit_s)
    # Nothing ties the networks together: small programs instead of one large one.
    share_s = time_limit_s / len(everything)
    parts = [_solve_networks(problem, (index,), is_integral, share_s) for index in everything]
    found = [part.solution for part in parts if part.solution is not None]
    solution = np.sum(found, axis=0) if len(found) == len(parts) else None
    bound = sum(part.lower_bound for part in parts)
    return ProgramAnswer(solution, bound, all(part.is_optimal for part in parts))


def _solve_networks(
    problem: PlanProblem, wanted: tuple[int, ...], is_integral: bool, time_limit_s: float
) -> ProgramAnswer:
    # Imported here: half a second that plans without a proof need not cost.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    seconds, value = _choose_scales(problem, wanted)
    layouts = _lay_out(problem, wanted, seconds)
    size = sum(layout.size for layout in layouts)
    boundaries, observed = np.arange(0), problem.observed
    if is_integral and problem.constraints.common_boundary and observed in wanted:
        boundaries = size + np.arange(problem.networks[observed].num_blocks - 1)
        size += len(boundaries)
    rows, cost = Rows(), np.zeros(size)
    upper, integrality = np.full(size, np.inf), np.zeros(size)
    for layout in layouts:
        add_stages(layout, rows)
        cost += make_cost(problem, layout, size, seconds) / value
        upper[layout.all_picks()] = 1.0
        integrality[layout.all_picks()] = float(is_integral)
    if len(boundaries):
        add_boundary(layouts[wanted.index(observed)], rows, boundaries)
        integrality[boundaries] = 1.0
    if len(layouts) == len(problem.networks):
        add_memory(problem, layouts, rows)
        add_limits(problem, layouts, rows, size, seconds)
    matrix = csr_array((rows.values, (rows.rows, rows.columns)), shape=(len(rows.lower), size))
    answer = milp(
        cost,
        integrality=integrality,
        bounds=Bounds(0.0, upper),
        constraints=LinearConstraint(matrix, np.array(rows.lower), np.array(rows.upper)),
        options={"time_limit": time_limit_s, "mip_rel_gap": 1e-9},
    )
    if answer.status == 2:
        return ProgramAnswer(None, np.inf, False)
    bound = answer.fun if not is_integral and answer.status == 0 else answer.mip_dual_bound
    solution = None if answer.x is None else _read_solution(problem, layouts, wanted, answer.x)
    return ProgramAnswer(solution, float(bound or 0.0) * value, answer.status == 0)


def _choose_scales(problem: PlanProblem, wanted: tuple[int, ...]) -> tuple[float, float]:
    """Return seconds and objective to divide by: the best that treat all alike have MAGNITUDE."""
    seconds, value, goal = 0.0, 0.0, problem.objective
    for choices in (problem.networks[index] for index in wanted):
        options = np.arange(len(choices.options))
        by_option = choices.tables.seconds(np.repeat(options[:, None], len(problem.units), axis=1))
        seconds += by_option.min()
        by_option = goal.latency_weight * by_option + choices.weigh(goal).sum(axis=0)
        value += by_option.min()
    # Where the best costs nothing, as of a network that gives nothing away, no scale is needed.
    return seconds / MAGNITUDE, (value or 1.0) / MAGNITUDE


def _lay_out(problem: PlanProblem, wanted: tuple[int, ...], seconds: float) -> list[Layout]:
    """Lay out the variables; all times are multiples of so many seconds."""
    layouts: list[Layout] = []
    for index in wanted:
        start = sum(layout.size for layout in layouts)
        choices = problem.networks[index]
        tables = replace(
            choices.tables,
            max_table=choices.tables.max_table / seconds,
            sum_table=choices.tables.sum_table / seconds,
        )
        layouts.append(Layout(replace(choices, tables=tables), start))
    return layouts


def _read_solution(
    problem: PlanProblem, layouts: Sequence[Layout], wanted: tuple[int, ...], values: NDArray
) -> Ints:
    """Return the choices of the wanted networks, and 0 for the others."""
    solution = np.zeros((len(problem.units), len(problem.networks)), dtype=np.int64)
    for index, layout in zip(wanted, layouts, strict=True):
        picks = values[layout.all_picks()].reshape(layout.shape)
        solution[:, index] = picks.argmax(axis=1)
    return solution
