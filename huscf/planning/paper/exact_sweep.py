"""The optimum of the paper's latency model by an exhaustive sweep over two thresholds."""

import numpy as np

from ...errors import PlanError
from ..devices.units import UnitFigures
from ..latency.stage_tables import Floats, Ints
from ..problem.network_choices import NetworkChoices
from ..problem.plan_problem import PlanProblem
from .latency import PaperLatency, PaperTerms


def sweep_thresholds(problem: PlanProblem) -> Ints:
    """Return the (units, 2) solution of least latency; memory and limits are not looked at.

    In the paper's model the four cuts do not meet in any stage. For one of them, an optimal plan
    with stage times U and V lets a client keep its optional block only if its own near time is
    at most U and its far time at most V. Letting *every* such client keep it shortens the
    server's queue and breaks neither time. So the best plan is among those given by a pair of
    thresholds, and there are at most (units + 1)^2 of them. Clients of one unit agree in it.

    Raises:
        PlanError: Where the model is not the paper's.
    """
    model = problem.model
    if all(len(choices.options) == 1 for choices in problem.networks):
        return np.zeros((len(problem.units), len(problem.networks)), dtype=np.int64)
    if not isinstance(model, PaperLatency):
        raise PlanError(
            f"strategy exact: is for latency_model paper, not {model.name}; use strategy milp"
        )
    figures = UnitFigures(problem.units, problem.fleet.server)
    solution = np.zeros((len(problem.units), len(problem.networks)), dtype=np.int64)
    for index, choices in enumerate(problem.networks):
        ends = []
        for side, is_head in enumerate((True, False)):
            allowed = set(choices.options[:, side].tolist())
            terms = model.make_terms(choices.network, is_head, figures)
            ends.append(_choose_end(terms, allowed))
        solution[:, index] = _find_options(choices, ends[0], ends[1])
    return solution


def _choose_end(terms: PaperTerms, allowed: set[int]) -> Ints:
    """Return the (units,) blocks held, 1 or 2, that minimise the near plus the far stage."""
    number = len(terms.near_short)
    if allowed != {1, 2}:
        return np.full(number, min(allowed), dtype=np.int64)
    near, far = terms.near_long[:, 0], terms.far_long[:, 0]
    order = np.argsort(far, kind="stable")
    best_s, best = _evaluate_prefixes(terms, order[:0], order)
    for threshold in np.unique(near):
        is_early = near[order] <= threshold
        seconds, keeps = _evaluate_prefixes(terms, order[is_early], order[~is_early])
        if seconds < best_s:
            best_s, best = seconds, keeps
    blocks = np.ones(number, dtype=np.int64)
    blocks[best] = 2
    return blocks


def _evaluate_prefixes(terms: PaperTerms, early: Ints, late: Ints) -> tuple[float, Ints]:
    """Return the least seconds and who keeps its block, where that is a prefix of `early`."""
    order = np.concatenate([early, late])
    lengths = np.arange(len(early) + 1)

    def before(values: Floats) -> Floats:
        return np.concatenate([[0.0], np.maximum.accumulate(values[order, 0])])[lengths]

    def after(values: Floats) -> Floats:
        tail = np.maximum.accumulate(values[order[::-1], 0])[::-1]
        return np.append(tail, 0.0)[lengths]

    def queue(values: Floats) -> Floats:
        return np.append(np.cumsum(values[order[::-1], 0])[::-1], 0.0)[lengths]

    near = np.maximum(after(terms.near_short) + queue(terms.near_queue_s), before(terms.near_long))
    far = np.maximum(after(terms.far_short) + queue(terms.far_queue_s), before(terms.far_long))
    place = int(np.argmin(near + far))
    return float((near + far)[place]), order[:place]


def _find_options(choices: NetworkChoices, heads: Ints, tails: Ints) -> Ints:
    pairs = np.stack([heads, tails], axis=1)
    same = (choices.options[None] == pairs[:, None]).all(axis=2)
    if not same.any(axis=1).all():
        raise PlanError("strategy exact: the constraints tie head and tail together; use milp")
    return same.argmax(axis=1)
