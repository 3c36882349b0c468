import pytest

from huscf.errors import PlanError
from huscf.planning import Constraints, Objective, SearchSettings, search_plan
from tests.planning.planning_cases import build, draw_fleet, limit_memory, list_all


@pytest.mark.parametrize("strategy", ["genetic", "milp"])
def test_limits_equal_exhaustive_search(small_subject, strategy):
    fleet = draw_fleet(3, 6)
    free = build(small_subject, fleet)
    everything = list_all(free)
    traffic = free.traffic_bytes(everything)
    limit = float((traffic.min() + traffic[free.latency_s(everything).argmin()]) / 2)
    best = free.latency_s(everything[traffic <= limit]).min()
    problem = build(small_subject, fleet, Constraints(max_bytes_per_step=limit))
    result = search_plan(problem, SearchSettings(strategy))
    assert result.traffic_bytes <= limit
    assert result.latency_s == pytest.approx(best, rel=1e-9)
    assert best > free.latency_s(everything).min()  # so the limit binds


@pytest.mark.parametrize("strategy", ["genetic", "milp", "decentralized", "random", "uniform"])
def test_memory_is_never_exceeded(small_subject, strategy):
    fleet = draw_fleet(3, 7)
    memory = build(small_subject, fleet)
    needed = [c.memory_bytes for c in memory.networks]
    least = float((needed[0].min(axis=1) + needed[1].min(axis=1)).max())
    problem = build(small_subject, limit_memory(fleet, 1.1 * least))
    everything = list_all(problem)
    fitting = everything[problem.excess(everything) == 0]
    result = search_plan(problem, SearchSettings(strategy))
    assert max(result.memory_bytes.values()) <= 1.1 * least
    best = problem.latency_s(fitting).min()
    assert result.latency_s >= best * (1 - 1e-9)
    assert problem.latency_s(everything).min() < best  # so memory binds
    if strategy in ("genetic", "milp"):
        assert result.latency_s == pytest.approx(best, rel=1e-9)


def test_device_without_room_is_refused_with_the_missing_bytes(small_subject):
    fleet = limit_memory(draw_fleet(2, 8), 1000.0)
    with pytest.raises(
        PlanError, match=r"client 0 \(profile p0\): memory_mib .* bytes are missing"
    ):
        build(small_subject, fleet)


def test_forbidden_cuts_and_floors_are_kept(small_subject):
    limits = Constraints(
        {"generator": 2, "discriminator": 3},
        {"generator_tail": [1], "discriminator_tail": (2, 3)},
    )
    result = search_plan(build(small_subject, draw_fleet(4, 9), limits))
    for entry in result.plan.clients:
        assert entry.cuts.head("generator") >= 2 and entry.cuts.head("discriminator") >= 3
        assert entry.cuts.tail("generator") != 1 and entry.cuts.tail("discriminator") == 1
    with pytest.raises(PlanError, match="min_generator_head 4"):
        build(small_subject, draw_fleet(2, 9), Constraints({"generator": 4}))
    with pytest.raises(PlanError, match="unknown cut gen_head; known: generator_head, gen"):
        build(small_subject, draw_fleet(2, 9), Constraints(forbidden_cuts={"gen_head": [1]}))
    with pytest.raises(PlanError, match="unknown cut generator_side; a cut is"):
        Constraints(forbidden_cuts={"generator_side": [1]})


def test_impossible_limits_and_blind_strategies_are_refused(small_subject):
    fleet = draw_fleet(3, 16)
    problem = build(small_subject, fleet, Constraints(max_latency_s=1e-6))
    for strategy in ("genetic", "milp"):
        with pytest.raises(PlanError, match=strategy):
            search_plan(problem, SearchSettings(strategy))
    with pytest.raises(PlanError, match="cannot see max_latency_s"):
        search_plan(problem, SearchSettings("decentralized"))
    with pytest.raises(PlanError, match="p0: power_w is missing"):
        build(small_subject, fleet, None, Objective(energy_weight=1.0))
    with pytest.raises(PlanError, match="strategy is 'best'"):
        SearchSettings("best")
