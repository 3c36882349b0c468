from dataclasses import replace

import pytest

from huscf.errors import PlanError
from huscf.planning import (
    ClientDevice,
    DeviceProfile,
    DriftSchedule,
    Fleet,
    Move,
    PlanOptions,
    Replanner,
    build_problem,
    list_moves,
    search_plan,
)
from huscf.planning.fleet import scale_profile
from huscf.split import ClientCuts, ClientPlan, CutPlan
from tests.planning.planning_cases import find_boundary, make_apart

OPTIONS = PlanOptions()


@pytest.fixture(scope="module")
def planned(make_paper_problem):
    problem = make_paper_problem()
    return problem.fleet, search_plan(problem).plan


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
    old = CutPlan(5, 5, (ClientPlan(0, ClientCuts(2, 1, 1, 1)),))
    new = CutPlan(5, 5, (ClientPlan(0, ClientCuts(1, 2, 1, 1)),))
    sizes = [block.param_bytes for block in paper_subject.costs.generator]
    moves = list_moves(old, new, paper_subject)
    assert [(m.network, m.block, m.direction, m.num_bytes) for m in moves] == [
        ("generator", 1, "uplink", 2 * sizes[1]),
        ("generator", 3, "downlink", 3 * sizes[3]),
    ]
    bare = list_moves(old, new, paper_subject, keeps_moments=False)
    assert [m.num_bytes for m in bare] == [0, sizes[3]]


def test_moments_go_up_only_where_the_server_has_no_copy(planned, paper_subject):
    fleet = Fleet(planned[0].clients[:2], planned[0].server)
    first, second = ClientCuts(2, 1, 1, 1), ClientCuts(1, 1, 1, 1)
    shared = CutPlan(5, 5, (ClientPlan(0, first), ClientPlan(1, second)))
    alone = CutPlan(5, 5, (ClientPlan(0, first), ClientPlan(1, first)))
    new = CutPlan(5, 5, (ClientPlan(0, second), ClientPlan(1, second)))
    moments = 2 * paper_subject.costs.generator[1].param_bytes
    for running, sent in ((shared, [0]), (alone, [moments, moments])):
        assert [m.num_bytes for m in list_moves(running, new, paper_subject)] == sent
        problem = build_problem(paper_subject, fleet, OPTIONS, Move(running, 1))
        moving_s = problem.stages(problem.from_plan(new))["moving"]
        assert (moving_s > 0) == (sum(sent) > 0)


def test_re_planning_finds_a_comparable_plan():
    subject, fleet = make_apart()
    running = CutPlan(5, 5, tuple(ClientPlan(client, ClientCuts()) for client in range(8)))
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


def test_drift_schedule_holds_from_its_round_on(planned, tmp_path):
    fleet, _ = planned
    path = tmp_path / "drift.yaml"
    path.write_text(
        "events:\n- {round: 2, profile: device1, speed_factor: 0.5}\n"
        "- {round: 3, client: 4, uplink_factor: 0.1, memory_factor: 0.5}\n"
    )
    schedule = DriftSchedule.load(path)
    assert schedule.apply(1, fleet) == fleet
    later = schedule.apply(5, fleet)
    for before, after in zip(fleet.clients, later.clients, strict=True):
        speed = 0.5 if before.profile.name == "device1" else 1.0
        uplink = 0.1 if before.client_id == 4 else 1.0
        assert after.profile.speed_flops_per_s == speed * before.profile.speed_flops_per_s
        assert after.profile.uplink_bits_per_s == uplink * before.profile.uplink_bits_per_s


def test_drift_names_numbered_profiles_and_known_figures(planned, tmp_path):
    server, path = planned[0].server, tmp_path / "drift.yaml"
    fleet = Fleet((ClientDevice(0, DeviceProfile("1", 1e9, 1e6, 1e6), 8),), server)
    path.write_text("events: [{round: 1, profile: 1, speed_factor: 1e-3}]")
    schedule = DriftSchedule.load(path)
    schedule.check(fleet)
    assert schedule.apply(1, fleet).clients[0].profile.speed_flops_per_s == 1e6
    path.write_text("events: [{round: 1, client: 0, memory_factor: 0.5}]")
    with pytest.raises(PlanError, match="memory_factor: profile 1 has no memory_mib"):
        DriftSchedule.load(path).check(fleet)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("events: 3", "events is missing or not a list"),
        ("events: [{round: 1, profile: a, speed: 2}]", r"events\[0\]: unknown key speed"),
        ("events: [{round: 1, speed_factor: 2}]", "give either profile or client"),
        ("events: [{profile: a, speed_factor: 2}]", "round is missing"),
        ("events: [{round: 1, profile: a, speed_factor: 0}]", "speed_factor is 0"),
        ("events: [{round: 1, profile: a, speed_factor: 1e-300}]", "speed_factor is 1e-300"),
        ("events: [{round: 1.7, profile: a, speed_factor: 2}]", "round is 1.7, must be a whole"),
        ("events: [{round: 1, client: null, speed_factor: 2}]", "client is None, must be a whole"),
        ("events: [{round: 1, client: true, speed_factor: 2}]", "client is True, must be a whole"),
        ("events: [{round: 1, profile: null, speed_factor: 2}]", "profile is None, must be the"),
        ("events: [{round: 1, profile: a}]", "nothing changes; give at least one of speed_factor"),
        ("{events: [], event: 3}", "unknown key event; known: events"),
        ("{events: [], events: []}", "the key events is repeated"),
    ],
)
def test_bad_drift_files_are_refused(tmp_path, text, message):
    path = tmp_path / "drift.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        DriftSchedule.load(path)


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
