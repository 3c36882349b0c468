"""The default search's plan is proven where a solver has the time."""

from dataclasses import replace

import numpy as np
import pytest

from huscf.planning import SearchSettings, search_plan
from huscf.planning.search import strategies
from huscf.planning.search.linear_program import solve_program
from tests.planning.planning_cases import build, draw_fleet, list_all

PROVEN = SearchSettings(prove_within_s=20.0)


def test_a_plan_above_its_relaxed_bound_is_proven_to_be_the_best(small_subject):
    problem = build(small_subject, draw_fleet(3, 20))
    best = problem.value(list_all(problem)).min()
    unproven, proven = search_plan(problem), search_plan(problem, PROVEN)
    assert unproven.bound == "linear relaxation, any plan" and unproven.gap > 1e-3
    assert proven.bound == "milp optimum, one set of cuts per group" and proven.gap == 0
    assert proven.objective_value == pytest.approx(best, rel=1e-9)
    assert proven.plan == unproven.plan


def test_a_better_plan_of_the_solver_is_taken(small_subject, monkeypatch):
    problem = build(small_subject, draw_fleet(3, 20))
    every = list_all(problem)
    worst = every[problem.value(every).argmax()]
    monkeypatch.setattr(strategies, "_search", lambda *_: worst)
    proven = search_plan(problem, PROVEN)
    assert proven.objective_value == pytest.approx(problem.value(every).min(), rel=1e-9)
    assert search_plan(problem).objective_value == problem.value(every).max()


def test_a_proof_that_takes_too_long_leaves_plan_and_bound_as_they_are(small_subject, monkeypatch):
    problem = build(small_subject, draw_fleet(3, 20))
    asked = []

    def solve(problem, time_limit_s):
        asked.append(time_limit_s)
        return replace(solve_program(problem), is_optimal=False, lower_bound=np.nan)

    monkeypatch.setattr(strategies, "solve_program", solve)
    late, unproven = search_plan(problem, PROVEN), search_plan(problem)
    assert asked == [20.0]
    assert (late.plan, late.bound, late.gap) == (unproven.plan, unproven.bound, unproven.gap)
    monkeypatch.setattr(strategies, "_LARGE_PROGRAM", 0)
    assert search_plan(problem, PROVEN).plan == unproven.plan and asked == [20.0]
