import pytest

from huscf.errors import PlanError
from huscf.planning import Objective, SearchSettings, search_plan
from huscf.planning.search.strategies import STRATEGIES
from tests.planning.planning_cases import build, draw_fleet, list_all


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strategy", ["genetic", "milp"])
def test_search_equals_exhaustive_search(small_subject, seed, strategy):
    problem = build(small_subject, draw_fleet(3, seed))
    best = problem.value(list_all(problem)).min()
    result = search_plan(problem, SearchSettings(strategy, seed))
    assert result.latency_s == pytest.approx(best, rel=1e-9)
    assert result.lower_bound_s <= best * (1 + 1e-9)


@pytest.mark.parametrize("goal", [Objective(1.0, 1e-7), Objective(0.0, 1.0), Objective(1, 0, 0.1)])
@pytest.mark.parametrize("strategy", ["genetic", "milp"])
def test_weighted_objectives_equal_exhaustive_search(small_subject, goal, strategy):
    problem = build(small_subject, draw_fleet(3, 5, has_power=True), None, goal)
    best = problem.value(list_all(problem)).min()
    result = search_plan(problem, SearchSettings(strategy))
    assert result.objective_value == pytest.approx(best, rel=1e-9)
    assert result.objective_bound <= best * (1 + 1e-9)
    fastest = problem.latency_s(list_all(problem)).min()
    assert 0 < result.lower_bound_s <= fastest * (1 + 1e-9)
    assert result.latency_bound == "linear relaxation, any plan"
    assert result.bound.startswith("milp" if strategy == "milp" else "linear relaxation")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", ["paper", "corrected"])
def test_every_result_keeps_its_bound_and_its_sums(make_paper_problem, strategy, model):
    problem = make_paper_problem((2, 1, 0, 1, 3, 0, 1), latency_model=model)
    if strategy == "exact" and model == "corrected":
        with pytest.raises(PlanError, match="strategy exact: is for latency_model paper"):
            search_plan(problem, SearchSettings("exact"))
        return
    result = search_plan(problem, SearchSettings(strategy))
    assert 0 < result.lower_bound_s <= result.latency_s * (1 + 1e-9)
    assert result.gap == pytest.approx(
        max(0, result.latency_s / result.lower_bound_s - 1), abs=1e-8
    )
    assert sum(result.stages.values()) == pytest.approx(result.latency_s)
    assert result.bound and result.plan.client_ids == list(range(8))
