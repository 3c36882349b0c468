from dataclasses import replace

import numpy as np
import pytest

from huscf.planning import Fleet, Objective, SearchSettings, ServerProfile, prove_bound, search_plan
from huscf.planning.devices.fleet import scale_profile
from huscf.planning.search.linear_program import solve_program
from tests.planning.planning_cases import build, draw_fleet, list_all


@pytest.mark.parametrize("scale", [1e3, 1e9])
def test_milp_is_exact_however_short_the_seconds(small_subject, scale):
    fleet = draw_fleet(3, 20)
    names = ("speed_flops_per_s", "uplink_bits_per_s", "downlink_bits_per_s")
    factors = dict.fromkeys(names, scale)
    clients = [
        replace(c, profile=scale_profile(c.profile, {**factors, "round_trip_s": 1 / scale}))
        for c in fleet.clients
    ]
    server = ServerProfile(*(getattr(fleet.server, name) * scale for name in names))
    goal = Objective(latency_weight=1e-3)
    problem = build(small_subject, Fleet(tuple(clients), server), None, goal)
    result = search_plan(problem, SearchSettings("milp"))
    best = problem.value(list_all(problem)).min()
    assert result.objective_value == pytest.approx(best, rel=1e-9, abs=0)
    assert result.objective_bound == pytest.approx(best, rel=1e-7, abs=0)
    assert result.bound.startswith("milp optimum")


def test_only_a_plan_at_its_bound_is_called_optimum(small_subject, monkeypatch):
    problem = build(small_subject, draw_fleet(3, 21))
    answer = solve_program(problem)
    loose = replace(answer, lower_bound=answer.lower_bound * (1 - 1e-4))
    monkeypatch.setattr("huscf.planning.search.strategies.solve_program", lambda *_: loose)
    result = search_plan(problem, SearchSettings("milp"))
    assert result.bound == "milp bound, one set of cuts per group"
    assert result.gap == pytest.approx(1e-4, rel=1e-3)


def test_relaxed_groups_stay_below_the_optimum(small_subject):
    problem = build(small_subject, draw_fleet(3, 11))
    best = problem.value(list_all(problem)).min()
    relaxed = problem.relax([np.array([0, 2]), np.array([1])])
    assert 0 < prove_bound(relaxed)[0] <= best
    merged = problem.merge([np.array([0, 2]), np.array([1])])
    assert merged.value(list_all(merged)).min() >= best
