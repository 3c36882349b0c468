from dataclasses import replace

import pytest

from huscf.errors import PlanError
from huscf.planning import Fleet, PlanOptions, Replanner, build_problem, list_moves, search_plan
from huscf.planning.devices.fleet import scale_profile
from huscf.split import ClientPlan
from tests.planning.planning_cases import find_boundary, make_apart, make_cuts, make_plan

OPTIONS = PlanOptions()


def drift(fleet, name, **factors):
    clients = [
        replace(c, profile=scale_profile(c.profile, factors)) if c.profile.name == name else c
        for c in fleet.clients
    ]
    return Fleet(tuple(clients), fleet.server)


def test_unchanged_devices_keep_the_plan(planned, paper_subject):
    fleet, plan = planned
    decision = Replanner(OPTIONS, num_steps=100, hysteresis=0.0).decide(plan, paper_subject, fleet)
    assert decision.plan is None and decision.moved == ()
    assert decision.latency_before_s == decision.latency_after_s
    assert "kept" in decision.reason


def test_slow_device_gives_blocks_back(planned, paper_subject):
    fleet, plan = planned
    slow = drift(fleet, "device6", speed_flops_per_s=0.02)
    decision = Replanner(OPTIONS, num_steps=1000).decide(plan, paper_subject, slow)
    cold = search_plan(build_problem(paper_subject, slow, OPTIONS))
    assert decision.plan is not None
    assert decision.latency_after_s < 0.95 * decision.latency_before_s
    assert decision.latency_after_s <= 1.01 * cold.latency_s
    assert decision.num_bytes == sum(block.num_bytes for block in decision.moved) > 0
    ups = {block.client_id for block in decision.moved if block.direction == "uplink"}
    assert ups >= {c.client_id for c in slow.clients if c.profile.name == "device6"}
    assert decision.moved == list_moves(plan, decision.plan, paper_subject)


def test_moving_must_pay_before_the_next_decision(planned, paper_subject):
    fleet, plan = planned
    slow = drift(fleet, "device6", speed_flops_per_s=0.25)
    moved = [
        Replanner(OPTIONS, steps, hysteresis=0.0).decide(plan, paper_subject, slow).num_bytes
        for steps in (1, 10_000)
    ]
    assert moved[0] < moved[1]


def test_moved_bytes_follow_the_stated_rule(paper_subject):
    old = make_plan(ClientPlan(0, make_cuts(2, 1, 1, 1)))
    new = make_plan(ClientPlan(0, make_cuts(1, 2, 1, 1)))
    sizes = [block.param_bytes for block in paper_subject.costs.blocks["generator"]]
    moves = list_moves(old, new, paper_subject)
    assert [(m.network, m.block, m.direction, m.num_bytes) for m in moves] == [
        ("generator", 1, "uplink", 2 * sizes[1]),
        ("generator", 3, "downlink", 3 * sizes[3]),
    ]
    bare = list_moves(old, new, paper_subject, keeps_moments=False)
    assert [m.num_bytes for m in bare] == [0, sizes[3]]


def test_re_planning_finds_a_comparable_plan():
    subject, fleet = make_apart()
    running = make_plan(*(ClientPlan(client, make_cuts()) for client in range(8)))
    free, comparable = (
        Replanner(PlanOptions(common_boundary=wanted), 10**9, 0.0).decide(running, subject, fleet)
        for wanted in (False, True)
    )
    assert find_boundary(free.plan) is None and find_boundary(comparable.plan) is not None
    assert free.latency_after_s < comparable.latency_after_s < 1.01 * free.latency_after_s


def test_clients_that_join_or_leave_are_matched_by_id(planned, paper_subject):
    fleet, plan = planned
    present = Fleet(tuple(c for c in fleet.clients if c.client_id != 7), fleet.server)
    newcomer = replace(fleet.clients[3], client_id=555)
    present = Fleet((*present.clients, newcomer), fleet.server)
    decision = Replanner(OPTIONS, num_steps=100).decide(plan, paper_subject, present)
    assert decision.plan is not None and "joined or left" in decision.reason
    assert decision.plan.client_ids == [c.client_id for c in present.clients]
    assert 555 not in {block.client_id for block in decision.moved}


def test_shrunken_memory_forces_a_new_plan(planned, paper_subject):
    fleet, plan = planned
    clients = [
        replace(c, profile=replace(c.profile, memory_bytes=100 * 2**20)) for c in fleet.clients
    ]
    small = Fleet(tuple(clients), fleet.server)
    decision = Replanner(OPTIONS, num_steps=100).decide(plan, paper_subject, small)
    assert decision.plan is not None and "no longer fits" in decision.reason
    problem = build_problem(paper_subject, small, OPTIONS)
    assert decision.latency_after_s >= problem.latency_s(problem.from_plan(plan)[None])[0]


@pytest.mark.parametrize(
    ("options", "steps", "hysteresis", "message"),
    [
        (OPTIONS, 0, 0.1, "num_steps is 0"),
        (OPTIONS, 1, 1.0, "hysteresis is 1.0"),
        (PlanOptions(latency_model="paper"), 1, 0.1, "needs corrected"),
    ],
)
def test_bad_settings_are_refused(options, steps, hysteresis, message):
    with pytest.raises(PlanError, match=message):
        Replanner(options, steps, hysteresis)
