"""Runs one strategy on one problem and puts a proven bound beside the plan."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, get_args

import numpy as np

from ...errors import PlanError
from ..latency.stage_tables import Ints
from ..paper.exact_sweep import sweep_thresholds
from ..paper.latency import PaperLatency
from ..problem.constraints import Objective
from ..problem.plan_problem import PlanProblem
from ..results.result import PlanResult
from .best_response import anneal_by_turns
from .common_boundary import search_comparable
from .genetic import (
    TURN_WEIGHTS,
    GeneticSettings,
    draw_solutions,
    group_units,
    list_uniform,
    search_genetically,
)
from .linear_program import ProgramAnswer, bound_by_relaxation, solve_program

T = TypeVar("T")

Strategy = Literal["uniform", "random", "genetic", "exact", "milp", "decentralized"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

# Above this many units times options the relaxation takes over a second; groups stand in then.
_LARGE_PROGRAM = 2000
_RELAXED_GROUPS = 30
_TURN_SWEEPS = 50
# Solvers work to tolerances; a plan that is no further from its bound is an optimum.
_PROVEN_GAP = 1e-6


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Args:
        strategy: "uniform" (the best that treats all alike), "random" (the best of so many),
            "genetic", "exact" (paper's model only), "milp" (proves the optimum, may take long)
            or "decentralized" (each device answers what the server announces).
        seed: Seed of all random choices.
        random_plans: Plans that "random" draws, at least 1.
        time_limit_s: Limit of the solver in "milp".
        prove_within_s: Seconds for which the solver tries to prove, or to better, what "genetic"
            has found above its bound; 0 leaves that out, so that no clock has a say.
        genetic: Settings of "genetic".
    """

    strategy: Strategy = "genetic"
    seed: int = 0
    random_plans: int = 1000
    time_limit_s: float = 60.0
    prove_within_s: float = 0.0
    genetic: GeneticSettings = field(default_factory=GeneticSettings)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise PlanError(f"strategy is {self.strategy!r}; known: {known}")
        if self.random_plans < 1:
            raise PlanError(f"random_plans is {self.random_plans}, must be >= 1")
        if not self.time_limit_s > 0:
            raise PlanError(f"time_limit_s is {self.time_limit_s}, must be > 0")


@dataclass(frozen=True)
class _Found:
    solution: Ints
    bound: float | None = None
    bound_name: str = ""


def search_plan(
    problem: PlanProblem, settings: SearchSettings | None = None, warm_start: Ints | None = None
) -> PlanResult:
    """Search for a plan and prove a bound.

    Args:
        problem: What to plan.
        settings: How; None takes the defaults.
        warm_start: (plans, units, networks) plans for "genetic" to start from.

    Raises:
        PlanError: Where no plan keeps all limits, or the strategy cannot take the problem.
    """
    settings = settings or SearchSettings()
    start = time.perf_counter()
    found = _find(problem, settings, warm_start)
    if problem.excess(found.solution[None])[0] > 0:
        raise PlanError(
            f"strategy {settings.strategy}: no plan found that keeps memory and all of "
            "max_latency_s, max_bytes_per_step and max_energy_j; loosen them or use strategy milp"
        )
    if found.bound is None:
        found = _Found(found.solution, *prove_bound(problem))
        if settings.strategy == "genetic" and settings.prove_within_s > 0:
            found = _prove(problem, found, settings.prove_within_s)
    return _describe(problem, settings, found, time.perf_counter() - start)


def prove_bound(problem: PlanProblem) -> tuple[float, str]:
    """Return a proven lower bound of the objective, and its name."""
    if isinstance(problem.model, PaperLatency) and problem.objective.is_latency:
        return _prove_by_sweep(problem)
    size = sum(c.memory_bytes.size for c in problem.networks)
    if size <= _LARGE_PROGRAM:
        return bound_by_relaxation(problem), "linear relaxation, any plan"
    groups = group_units(problem, _RELAXED_GROUPS, np.random.default_rng(0))
    if groups is None:
        return bound_by_relaxation(problem), "linear relaxation, any plan"
    relaxed = problem.relax(groups)
    return bound_by_relaxation(relaxed), f"linear relaxation of {len(groups)} groups, any plan"


def _prove_by_sweep(problem: PlanProblem) -> tuple[float, str]:
    best = sweep_thresholds(problem)
    weight = problem.objective.latency_weight
    return weight * float(problem.latency_s(best[None])[0]), "exact sweep, any plan"


def _prove(problem: PlanProblem, found: _Found, time_limit_s: float) -> _Found:
    """Return the proven optimum where the solver has it in time, else what was found."""
    size = sum(c.memory_bytes.size for c in problem.networks)
    value = float(problem.value(found.solution[None])[0])
    if size > _LARGE_PROGRAM or found.bound is None or value <= found.bound * (1 + _PROVEN_GAP):
        return found
    answer = solve_program(problem, time_limit_s)
    if answer.solution is None or not answer.is_optimal:
        return found
    best = _pick_best(problem, np.stack([found.solution, answer.solution]))
    return _name_proof(problem, replace(answer, solution=best))


def _find(problem: PlanProblem, settings: SearchSettings, warm_start: Ints | None) -> _Found:
    if settings.strategy == "milp":
        return _solve(problem, settings.time_limit_s)
    if settings.strategy == "exact":
        return _sweep(problem)
    return _Found(search_comparable(problem, lambda one: _search(one, settings, warm_start)))


def _search(problem: PlanProblem, settings: SearchSettings, warm_start: Ints | None) -> Ints:
    if settings.strategy == "genetic":
        return search_genetically(problem, settings.seed, settings.genetic, warm_start)
    if settings.strategy == "decentralized":
        return decide_by_turns(problem)[0]
    if settings.strategy == "random":
        rng = np.random.default_rng(settings.seed)
        return _pick_best(problem, draw_solutions(problem, settings.random_plans, rng))
    uniform = list_uniform(problem)
    if not len(uniform):
        raise PlanError("strategy uniform: no cuts fit the memory of every device; use genetic")
    return _pick_best(problem, uniform)


def decide_by_turns(problem: PlanProblem) -> tuple[Ints, int]:
    """Return the fixed point of devices that answer the server's announcements, and the sweeps.

    Each unit starts with its smallest parts. In its turn it sees deadlines (largest and
    runner-up) and queue lengths of every stage, never another's profile or cuts, and takes the
    cuts that make the predicted step plus a small part of its own path shortest.

    Raises:
        PlanError: Where limits over all clients are set, which no single device can see.
    """
    if problem.constraints.has_limits:
        raise PlanError(
            "strategy decentralized: a device cannot see max_latency_s, max_bytes_per_step or "
            "max_energy_j, which are limits over all; use strategy genetic or milp"
        )
    memory = [choices.memory_bytes for choices in problem.networks]
    start = np.stack([figures.argmin(axis=1) for figures in memory], axis=1)
    return anneal_by_turns(problem, start, _TURN_SWEEPS, TURN_WEIGHTS)


def _solve(problem: PlanProblem, time_limit_s: float) -> _Found:
    answer = solve_program(problem, time_limit_s)
    if answer.solution is None:
        if answer.lower_bound == np.inf:
            raise PlanError("strategy milp: no plan keeps all limits")
        raise PlanError(f"strategy milp: found no plan within time_limit_s {time_limit_s:g}")
    return _name_proof(problem, answer)


def _name_proof(problem: PlanProblem, answer: ProgramAnswer) -> _Found:
    """Return a solution with the solver's bound, called an optimum only where they meet."""
    assert answer.solution is not None
    value = float(problem.value(answer.solution[None])[0])
    is_optimal = answer.is_optimal and value <= answer.lower_bound * (1 + _PROVEN_GAP)
    proof = "milp optimum" if is_optimal else "milp bound"
    return _Found(answer.solution, answer.lower_bound, f"{proof}, one set of cuts per group")


def _sweep(problem: PlanProblem) -> _Found:
    if problem.limits_memory or problem.constraints.has_limits or not problem.objective.is_latency:
        raise PlanError(
            "strategy exact: knows neither memory, limits nor objectives beside the latency; "
            "use strategy milp"
        )
    solution = sweep_thresholds(problem)
    return _Found(solution, float(problem.value(solution[None])[0]), "exact sweep, any plan")


def _pick_best(problem: PlanProblem, solutions: Ints) -> Ints:
    best: Ints = solutions[problem.score(solutions).argmin()]
    return best


def _describe(
    problem: PlanProblem, settings: SearchSettings, found: _Found, seconds: float
) -> PlanResult:
    batch = found.solution[None]
    value, bound = float(problem.value(batch)[0]), float(found.bound or 0.0)
    lower_bound_s, latency_bound = _bound_latency(problem, bound, found.bound_name)
    has_power = all(client.profile.power_w is not None for client in problem.fleet.clients)
    return PlanResult(
        plan=problem.to_plan(found.solution),
        latency_s=float(problem.latency_s(batch)[0]),
        lower_bound_s=lower_bound_s,
        latency_bound=latency_bound,
        objective_bound=bound,
        bound=found.bound_name,
        # Solvers stop at 1e-9; a gap below that is none.
        gap=max(0.0, value / bound - 1) if bound and value > bound * (1 + 1e-9) else 0.0,
        objective_value=value,
        seconds=seconds,
        strategy=settings.strategy,
        latency_model=problem.model.name,
        seed=settings.seed,
        stages=problem.stages(found.solution),
        memory_bytes=_list_memory(problem, found.solution),
        traffic_bytes=float(problem.traffic_bytes(batch)[0]),
        energy_j=float(problem.energy_j(batch)[0]) if has_power else None,
        leakage=_list_leakage(problem, found.solution),
    )


def _bound_latency(problem: PlanProblem, bound: float, name: str) -> tuple[float, str]:
    """Return a bound of the latency and its name, from those of the objective where that is it."""
    if problem.objective.is_latency:
        return bound / problem.objective.latency_weight, name
    return prove_bound(replace(problem, objective=Objective()))


def _list_memory(problem: PlanProblem, solution: Ints) -> dict[int, int]:
    places = np.arange(len(problem.units))
    parts = [c.memory_bytes[places, solution[:, i]] for i, c in enumerate(problem.networks)]
    return _spread(problem, [int(size) for size in np.sum(parts, axis=0).round()])


def _list_leakage(problem: PlanProblem, solution: Ints) -> dict[int, float]:
    if problem.leakage is None:
        return {}
    parts = [
        problem.leakage.of_options(choices.network, choices.options[solution[:, i]])
        for i, choices in enumerate(problem.networks)
    ]
    return _spread(problem, [float(share) for share in np.max(parts, axis=0)])


def _spread(problem: PlanProblem, figures: Sequence[T]) -> dict[int, T]:
    """Return the figures of units by client id."""
    by_client = {
        client: figure
        for unit, figure in zip(problem.units, figures, strict=True)
        for client in unit.client_ids
    }
    return dict(sorted(by_client.items()))
