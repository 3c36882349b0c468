import itertools
from dataclasses import replace

import numpy as np
import pytest

from huscf.errors import PlanError
from huscf.planning import (
    Constraints,
    CorrectedLatency,
    Fleet,
    GeneticSettings,
    Objective,
    PlanOptions,
    SearchSettings,
    ServerProfile,
    build_problem,
    decide_by_turns,
    make_problem,
    prove_bound,
    search_genetically,
    search_plan,
    sweep_trade_off,
)
from huscf.planning.best_response import announce, improve_by_turns
from huscf.planning.exact_sweep import sweep_thresholds
from huscf.planning.fleet import scale_profile
from huscf.planning.genetic import cluster_points
from huscf.planning.linear_program import solve_program
from huscf.planning.search import STRATEGIES
from huscf.split import CutPlan, SavedPlan
from tests.planning.planning_cases import (
    draw_choices,
    draw_fleet,
    find_boundary,
    make_apart,
    make_subject,
)


@pytest.fixture(scope="module")
def small_subject():
    return make_subject(width=8)


def build(subject, fleet, constraints=None, objective=None):
    model = CorrectedLatency(subject.costs)
    return make_problem(fleet, subject.costs, model, constraints, objective)


def list_all(problem):
    pairs = itertools.product(*(range(len(choices.options)) for choices in problem.networks))
    return np.array(list(itertools.product(list(pairs), repeat=len(problem.units))))


def limit_memory(fleet, num_bytes):
    clients = [
        replace(c, profile=replace(c.profile, memory_bytes=num_bytes)) for c in fleet.clients
    ]
    return Fleet(tuple(clients), fleet.server)


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
    limits = Constraints(2, 3, {"generator_tail": [1], "discriminator_tail": (2, 3)})
    result = search_plan(build(small_subject, draw_fleet(4, 9), limits))
    for entry in result.plan.clients:
        assert entry.cuts.generator_head >= 2 and entry.cuts.discriminator_head >= 3
        assert entry.cuts.generator_tail != 1 and entry.cuts.discriminator_tail == 1
    with pytest.raises(PlanError, match="min_generator_head 4"):
        build(small_subject, draw_fleet(2, 9), Constraints(min_generator_head=4))
    with pytest.raises(PlanError, match="unknown cut gen_head"):
        Constraints(forbidden_cuts={"gen_head": [1]})


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


def test_trade_offs_have_a_common_boundary_and_impossible_ones_are_refused():
    subject, fleet = make_apart()
    problem = build_problem(subject, fleet, PlanOptions())
    points = sweep_trade_off(problem, "bytes", SearchSettings(), num_points=4)
    assert all(find_boundary(point.plan) is not None for point in points)
    option = problem.discriminator.options.tolist()
    is_feasible = np.zeros_like(problem.is_feasible)
    is_feasible[0, :, option.index([3, 1])] = is_feasible[1:, :, option.index([1, 3])] = True
    with pytest.raises(PlanError, match="common_boundary: memory and forbidden cuts leave no"):
        search_plan(replace(problem, is_feasible=is_feasible))


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
    monkeypatch.setattr("huscf.planning.search.solve_program", lambda *_: loose)
    result = search_plan(problem, SearchSettings("milp"))
    assert result.bound == "milp bound, one set of cuts per group"
    assert result.gap == pytest.approx(1e-4, rel=1e-3)


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


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((15, 15, 14, 14, 14, 14, 14), 8.140490),
        ((14, 14, 14, 14, 14, 15, 15), 8.019813),
        ((143, 143, 143, 143, 143, 143, 142), 40.880),
        ((1429, 1429, 1429, 1429, 1428, 1428, 1428), 382.443),
    ],
)
def test_exact_and_genetic_find_the_published_optimum(make_paper_problem, counts, expected):
    problem = make_paper_problem(counts, latency_model="paper")
    precision = 5.1e-7 if expected < 10 else 5.1e-4
    for strategy in ("exact", "genetic"):
        result = search_plan(problem, SearchSettings(strategy))
        assert result.latency_s == pytest.approx(expected, abs=precision)
        assert result.gap == 0


@pytest.mark.parametrize("seed", range(5))
def test_sweep_equals_exhaustive_search_on_random_devices(make_paper_problem, seed):
    rng = np.random.default_rng(seed)
    counts = (*(int(n) for n in rng.integers(0, 6, size=4)), 1)
    problem = make_paper_problem(counts, latency_model="paper")
    best = sum(
        choices.tables.seconds(
            np.array(list(itertools.product(range(4), repeat=len(problem.units))))
        ).min()
        for choices in problem.networks
    )
    assert problem.latency_s(sweep_thresholds(problem)[None])[0] == pytest.approx(best, rel=1e-12)


def test_relaxed_groups_stay_below_the_optimum(small_subject):
    problem = build(small_subject, draw_fleet(3, 11))
    best = problem.value(list_all(problem)).min()
    relaxed = problem.relax([np.array([0, 2]), np.array([1])])
    assert 0 < prove_bound(relaxed)[0] <= best
    merged = problem.merge([np.array([0, 2]), np.array([1])])
    assert merged.value(list_all(merged)).min() >= best


def test_all_different_clients_are_grouped_then_polished(small_subject):
    problem = build(small_subject, draw_fleet(40, 12))
    coarse = search_genetically(problem, 0, GeneticSettings(max_groups=8, polish_sweeps=0))
    fine = search_genetically(problem, 0, GeneticSettings(max_groups=8))
    score = problem.score(np.stack([coarse.solution, fine.solution]))
    assert score[1] <= score[0]
    assert score[1] < problem.score(draw_choices(problem, 500, 0)).min()


def test_same_seed_same_plan(small_subject):
    problem = build(small_subject, draw_fleet(5, 13))
    plans = [search_plan(problem, SearchSettings(seed=4)).plan for _ in range(2)]
    assert plans[0] == plans[1]


def test_warm_start_is_never_worse(small_subject):
    problem = build(small_subject, draw_fleet(6, 14))
    best = search_genetically(problem, 0).solution
    short = GeneticSettings(generations=1, polish_sweeps=0)
    warm = search_genetically(problem, 1, short, best[None])
    assert problem.score(warm.solution[None])[0] <= problem.score(best[None])[0] * (1 + 1e-12)


def test_trade_off_falls_from_end_to_end(small_subject):
    problem = build(small_subject, draw_fleet(4, 15, has_power=True))
    for against in ("bytes", "energy"):
        points = sweep_trade_off(problem, against, SearchSettings(), num_points=5)
        assert len(points) >= 2
        assert np.all(np.diff([point.latency_s for point in points]) > 0)
        assert np.all(np.diff([point.rival for point in points]) < 0)
    everything = problem.traffic_bytes(draw_choices(problem, 2000, 0))
    assert sweep_trade_off(problem, "bytes", SearchSettings())[-1].rival <= everything.min()


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


def test_saved_plan_is_read_back(small_subject, tmp_path):
    result = search_plan(build(small_subject, draw_fleet(3, 17)))
    path = tmp_path / "plan.yaml"
    result.save(path)
    assert CutPlan.load(path) == result.plan
    assert SavedPlan(str(path)).path == str(path)
    with pytest.raises(PlanError, match="exists already"):
        result.save(path)


def test_clusters_of_far_groups_are_found():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    truth = rng.integers(3, size=60)
    labels = cluster_points(centres[truth] + 0.1 * rng.normal(size=(60, 2)), 3, rng)
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 3


def test_turns_announce_anew_only_after_a_change(small_subject, monkeypatch):
    problem = build(small_subject, draw_fleet(12, 18))
    settled, sweeps = decide_by_turns(problem)
    calls = []
    count = lambda *args: calls.append(1) or announce(*args)  # noqa: E731
    monkeypatch.setattr("huscf.planning.best_response.announce", count)
    again, one = improve_by_turns(problem, settled, max_sweeps=50)
    assert (again == settled).all() and one == 1 < sweeps
    assert len(calls) == 2  # one per network
