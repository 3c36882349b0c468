import numpy as np
import pytest

from huscf.planning import Fleet, Move, PlanOptions, build_problem, list_moves
from huscf.split import ClientPlan
from tests.planning.planning_cases import make_cuts, make_plan


def test_federation_is_spread_over_the_round(make_paper_problem):
    alone, often, seldom = (make_paper_problem(steps_per_round=steps) for steps in (0, 10, 1000))
    solution = np.zeros((1, 7, 2), dtype=np.int64)
    extra = [float((p.latency_s(solution) - alone.latency_s(solution))[0]) for p in (often, seldom)]
    assert extra[0] == pytest.approx(100 * extra[1]) and extra[1] > 0
    # 100 clients hold the outer blocks of both networks; their bits both ways at 1 Gbit/s.
    blocks = alone.model.costs.blocks["generator"], alone.model.costs.blocks["discriminator"]
    held = sum(network[i].param_bytes for network in blocks for i in (0, -1))
    assert extra[0] >= 2 * 8 * 100 * held / 1e9 / 10 * (1 - 1e-9)


def test_moments_go_up_only_where_the_server_has_no_copy(planned, paper_subject):
    fleet = Fleet(planned[0].clients[:2], planned[0].server)
    first, second = make_cuts(2, 1, 1, 1), make_cuts(1, 1, 1, 1)
    shared = make_plan(ClientPlan(0, first), ClientPlan(1, second))
    alone = make_plan(ClientPlan(0, first), ClientPlan(1, first))
    new = make_plan(ClientPlan(0, second), ClientPlan(1, second))
    moments = 2 * paper_subject.costs.blocks["generator"][1].param_bytes
    for running, sent in ((shared, [0]), (alone, [moments, moments])):
        assert [m.num_bytes for m in list_moves(running, new, paper_subject)] == sent
        problem = build_problem(paper_subject, fleet, PlanOptions(), Move(running, 1))
        moving_s = problem.stages(problem.from_plan(new))["moving"]
        assert (moving_s > 0) == (sum(sent) > 0)
