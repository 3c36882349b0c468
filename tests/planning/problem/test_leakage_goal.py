"""What cuts give away, as a limit and as a part of the objective, for every strategy."""

import json
from dataclasses import replace

import numpy as np
import pytest

from huscf.errors import PlanError
from huscf.planning import Constraints, Objective, SearchSettings, search_plan
from huscf.planning.costs.leakage import Leakage
from tests.planning.planning_cases import build, draw_fleet, limit_memory, list_all

SHARES = {1: 0.9, 2: 0.6, 3: 0.5}


@pytest.fixture(scope="session")
def leaking(small_subject):
    """The small networks with a leakage as if it had been measured."""
    params = tuple(block.num_params for block in small_subject.costs.blocks["discriminator"])
    leakage = Leakage("discriminator", params, SHARES)
    return replace(small_subject, costs=replace(small_subject.costs, leakage=leakage))


def heads(problem, solutions):
    """(plans, units) blocks of the discriminators' heads."""
    return problem.networks[1].options[solutions[:, :, 1], 0]


@pytest.mark.parametrize("limit", [0.6, 0.55])
@pytest.mark.parametrize("strategy", ["genetic", "milp", "decentralized", "uniform", "random"])
def test_a_limit_is_kept_by_every_strategy(leaking, strategy, limit):
    fleet = draw_fleet(3, 6)
    free = build(leaking, fleet)
    everything = list_all(free)
    allowed = everything[(heads(free, everything) >= (2 if limit == 0.6 else 3)).all(axis=1)]
    best = free.latency_s(allowed).min()
    assert best > free.latency_s(everything).min()  # so the limit binds
    result = search_plan(
        build(leaking, fleet, Constraints(max_leakage=limit)), SearchSettings(strategy)
    )
    for client, share in result.leakage.items():
        head = result.plan.by_client[client].cuts.head("discriminator")
        assert share == SHARES[head] <= limit
    assert result.latency_s >= best * (1 - 1e-9)
    if strategy in ("genetic", "milp"):
        assert result.latency_s == pytest.approx(best, rel=1e-9)
    assert result.summarize()["largest_leakage"] == max(result.leakage.values())
    assert all(client["leakage"] <= limit for client in result.to_dict()["clients"])


def test_the_exact_strategy_keeps_it_too(make_paper_problem, paper_subject, tmp_path):
    params = [block.num_params for block in paper_subject.costs.blocks["discriminator"]]
    values = {"network": "discriminator", "block_params": params, "heads": SHARES}
    path = tmp_path / "leakage.json"
    path.write_text(json.dumps({"leakage": values}))
    options = {"latency_model": "paper", "leakage": str(path)}
    counts = (2, 1, 0, 1, 3, 0, 1)
    limited = make_paper_problem(counts, **options, max_leakage=0.6)
    exact, solved = (search_plan(limited, SearchSettings(name)) for name in ("exact", "milp"))
    assert set(exact.leakage.values()) == {0.6}
    assert exact.latency_s == pytest.approx(solved.latency_s, rel=1e-6) and exact.gap == 0
    assert exact.latency_s > search_plan(make_paper_problem(counts, **options)).latency_s
    with pytest.raises(PlanError, match="strategy exact: knows neither memory, limits nor"):
        weighted = make_paper_problem(counts, **options, leakage_weight=1.0)
        search_plan(weighted, SearchSettings("exact"))


@pytest.mark.parametrize("goal", [Objective(1, 0, 0, 3.0), Objective(0, 0, 0, 1.0)])
@pytest.mark.parametrize("strategy", ["genetic", "milp", "decentralized"])
def test_a_weighted_leakage_equals_exhaustive_search(leaking, goal, strategy):
    fleet = draw_fleet(3, 5)
    problem = build(leaking, fleet, None, goal)
    everything = list_all(problem)
    shares = np.vectorize(SHARES.get)(heads(problem, everything)).mean(axis=1)
    values = goal.latency_weight * problem.latency_s(everything) + goal.leakage_weight * shares
    assert problem.value(everything) == pytest.approx(values)
    result = search_plan(problem, SearchSettings(strategy))
    assert result.objective_bound <= values.min() * (1 + 1e-9)
    if strategy != "decentralized":
        assert result.objective_value == pytest.approx(values.min(), rel=1e-9)
    mean = np.mean(list(result.leakage.values()))
    assert result.objective_value == pytest.approx(
        goal.latency_weight * result.latency_s + goal.leakage_weight * mean
    )


def test_groups_of_clients_weigh_as_their_members_do(leaking):
    fleet = draw_fleet(4, 5)
    same = [
        replace(client, profile=fleet.clients[0].profile, batch_size=8)
        for client in fleet.clients[:3]
    ]
    fleet = replace(fleet, clients=(*same, fleet.clients[3]))
    problem = build(leaking, fleet, None, Objective(1, 0, 0, 1.0))
    everything = list_all(problem)
    shares = np.vectorize(SHARES.get)(heads(problem, everything))
    assert problem.mean_leakage(everything) == pytest.approx(shares @ [0.75, 0.25])
    one = problem.merge([np.array([0, 1])])
    assert one.mean_leakage(everything[:1, :1]) == pytest.approx(shares[0, 0])


def test_a_limit_that_no_cut_meets_names_the_least_possible_one(leaking):
    fleet = draw_fleet(3, 6)
    with pytest.raises(PlanError, match=r"max_leakage 0.4: .* all clients is 0.5$"):
        build(leaking, fleet, Constraints(max_leakage=0.4))
    with pytest.raises(PlanError, match=r"max_leakage 0: .* all clients is 0.6$"):
        forbidden = {"discriminator_head": [3]}
        build(leaking, fleet, Constraints(forbidden_cuts=forbidden, max_leakage=0.0))
    # As tight a memory as the smallest parts need leaves heads of one block.
    memory = [choices.memory_bytes for choices in build(leaking, fleet).networks]
    least = float((memory[0].min(axis=1) + memory[1].min(axis=1)).max())
    with pytest.raises(PlanError, match=r"max_leakage 0.7: .* all clients is 0.9$"):
        build(leaking, limit_memory(fleet, least), Constraints(max_leakage=0.7))
    # What another limit makes impossible is not laid at this one's door.
    with pytest.raises(PlanError, match="memory_mib is too small"):
        build(leaking, limit_memory(fleet, 1000.0), Constraints(max_leakage=0.7))


def test_what_was_not_measured_is_no_goal(small_subject):
    fleet = draw_fleet(2, 6)
    for limits, goal, name in (
        (Constraints(max_leakage=0.5), None, "max_leakage"),
        (None, Objective(leakage_weight=1.0), "leakage_weight"),
    ):
        with pytest.raises(PlanError, match=rf"^{name}: .* has not been measured; give leakage"):
            build(small_subject, fleet, limits, goal)
    for limit in (-0.1, 1.1, float("nan")):
        with pytest.raises(PlanError, match=r"max_leakage is .*, must be from 0"):
            Constraints(max_leakage=limit)
