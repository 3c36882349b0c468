from dataclasses import replace

import numpy as np
import pytest

from huscf.errors import PlanError
from huscf.planning import Constraints, PlanOptions, SearchSettings, build_problem, search_plan
from tests.planning.planning_cases import build, draw_fleet, find_boundary, list_all, make_apart


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", ["genetic", "milp"])
def test_common_boundary_equals_exhaustive_search(small_subject, seed, strategy):
    problem = build(small_subject, draw_fleet(3, seed), Constraints(common_boundary=True))
    everything = list_all(problem)
    comparable = problem.excess(everything) == 0
    for solution in everything[:: len(everything) // 50]:
        is_comparable = find_boundary(problem.to_plan(solution)) is not None
        assert (problem.excess(solution[None])[0] == 0) == is_comparable
    best = problem.value(everything[comparable]).min()
    result = search_plan(problem, SearchSettings(strategy, seed))
    assert result.latency_s == pytest.approx(best, rel=1e-9)
    assert result.lower_bound_s <= best * (1 + 1e-9)


@pytest.mark.parametrize("strategy", ["genetic", "milp", "decentralized", "random", "uniform"])
def test_every_strategy_finds_a_common_boundary(strategy):
    subject, fleet = make_apart()
    settings = SearchSettings(strategy)
    free, comparable = (
        search_plan(build_problem(subject, fleet, PlanOptions(common_boundary=wanted)), settings)
        for wanted in (False, True)
    )
    if strategy in ("genetic", "milp"):
        assert find_boundary(free.plan) is None
        assert free.latency_s < comparable.latency_s < 1.01 * free.latency_s
    assert find_boundary(comparable.plan) is not None


def test_impossible_common_boundaries_are_refused():
    subject, fleet = make_apart()
    problem = build_problem(subject, fleet, PlanOptions())
    option = problem.networks[1].options.tolist()
    is_feasible = np.zeros_like(problem.is_feasible)
    is_feasible[0, :, option.index([3, 1])] = is_feasible[1:, :, option.index([1, 3])] = True
    with pytest.raises(PlanError, match="common_boundary: memory and forbidden cuts leave no"):
        search_plan(replace(problem, is_feasible=is_feasible))
