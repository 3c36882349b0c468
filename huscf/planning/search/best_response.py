"""One unit's best answer while all others stay as they are, and sweeps of such answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..latency.stage_tables import Floats, Ints, StageTables
from ..problem.plan_problem import PlanProblem


@dataclass(frozen=True)
class Broadcast:
    """What the server announces for one network: deadlines and queues, never who causes them.

    Args:
        largest: (max terms,) largest value of each stage deadline.
        second: (max terms,) the runner-up, so that the one who causes the largest can tell
            what is left without it.
        total: (sum terms,) queue lengths.
    """

    largest: Floats
    second: Floats
    total: Floats


def announce(tables: StageTables, choices: Ints) -> Broadcast:
    """Return the announcement for the (units,) options of one network."""
    units = np.arange(len(choices))
    terms = tables.max_table[units, choices]
    top = np.sort(np.concatenate([np.zeros((2, terms.shape[1])), terms]), axis=0)
    return Broadcast(top[-1], top[-2], tables.sum_table[units, choices].sum(axis=0))


def predict_stages(tables: StageTables, news: Broadcast, unit: int, current: int) -> Floats:
    """Return the (stages, options) seconds for each option of one unit, others unchanged.

    Args:
        tables: The network's tables, of which only the unit's own rows are read.
        news: The announcement.
        unit: Who asks.
        current: Its present option.
    """
    mine = tables.max_table[unit]
    others = np.where(mine[current] >= news.largest, news.second, news.largest)
    total = news.total - tables.sum_table[unit, current] + tables.sum_table[unit]
    return tables.finish(np.concatenate([np.maximum(mine, others), total], axis=1).T)


def predict_own_paths(tables: StageTables) -> Floats:
    """Return the (units, options) seconds that each unit would need if nobody else were there."""
    alone = np.concatenate([tables.max_table, tables.sum_table], axis=2)
    return np.stack([tables.finish(terms.T).sum(axis=0) for terms in alone])


def improve_by_turns(
    problem: PlanProblem, solution: Ints, max_sweeps: int, patience_weight: float = 0.0
) -> tuple[Ints, int]:
    """Let the units answer in turn until nobody changes, or the sweeps are used up.

    Args:
        problem: Whose score, limits included, each answer lowers.
        solution: (units, networks) to start from; not changed.
        max_sweeps: Most rounds of turns.
        patience_weight: Weight of a unit's own path beside the latency: it lets a slow unit
            move though other slow units still hold up the stage. 0 accepts only answers that
            lower the score.

    Returns:
        The solution and the number of sweeps.
    """
    solution = solution.copy()
    own_costs: list[Floats | None] = [None] * len(problem.networks)
    if patience_weight:
        weight = patience_weight * problem.objective.latency_weight
        own_costs = [weight * predict_own_paths(c.tables) for c in problem.networks]
    for sweep in range(1, max_sweeps + 1):
        before = solution.copy()
        for index, own_cost in enumerate(own_costs):
            _sweep_network(problem, solution, index, own_cost)
        if (before == solution).all():
            return solution, sweep
    return solution, max_sweeps


def anneal_by_turns(
    problem: PlanProblem, solution: Ints, sweeps: int, weights: tuple[float, ...]
) -> tuple[Ints, int]:
    """Run `improve_by_turns` with falling patience weights; return solution and all sweeps."""
    used = 0
    for weight in weights:
        solution, count = improve_by_turns(problem, solution, sweeps, weight)
        used += count
    return solution, used


def _sweep_network(
    problem: PlanProblem, solution: Ints, index: int, own_cost: Floats | None
) -> None:
    tables = problem.networks[index].tables
    news = announce(tables, solution[:, index])
    for unit in range(len(problem.units)):
        current = solution[unit, index]
        value = _score_options(problem, solution, unit, index, news)
        if own_cost is not None:
            value = value + own_cost[unit]
        others: list[Any] = list(solution[unit])
        others[index] = slice(None)
        fits = problem.is_feasible[(unit, *others)]
        value = np.where(fits, value, np.inf)
        best = int(value.argmin())
        if not fits[current] or value[best] < value[current] - 1e-12 * abs(value[current]):
            solution[unit, index] = best
            news = announce(tables, solution[:, index])


def _score_options(
    problem: PlanProblem, solution: Ints, unit: int, index: int, news: Broadcast
) -> Floats:
    """Return the (options,) objective of one network for each option of one unit."""
    choices, goal = problem.networks[index], problem.objective
    if problem.constraints.has_limits:
        trials = np.repeat(solution[None], len(choices.options), axis=0)
        trials[:, unit, index] = np.arange(len(trials))
        return problem.score(trials)
    seconds = predict_stages(choices.tables, news, unit, solution[unit, index]).sum(axis=0)
    value: Floats = goal.latency_weight * seconds + choices.weigh(goal)[unit]
    return value
