"""Planning goes by the declared networks and passes: nothing in it needs a generator."""

import numpy as np
import pytest

from huscf.planning import (
    BlockCost,
    ClientDevice,
    Constraints,
    CorrectedLatency,
    DeviceProfile,
    Fleet,
    PlanCosts,
    ServerProfile,
    StepPass,
    decide_by_turns,
    make_problem,
    prove_bound,
    search_genetically,
)
from huscf.planning.search.common_boundary import search_comparable
from huscf.planning.search.linear_program import solve_program
from tests.planning.planning_cases import draw_fleet, limit_memory, list_all


def test_an_autoencoder_by_hand():
    """Forward and backward pass of the two clients of test_corrected.py: 5.2 s and 6.4 s."""
    block = BlockCost(1e9, 1e9, 1e9, 2e9, 1e6, 1e3, 4, 1)
    passes = (StepPass("autoencoder", "forward"), StepPass("autoencoder", "backward"))
    costs = PlanCosts({"autoencoder": (block,) * 3}, passes)
    clients = (
        ClientDevice(0, DeviceProfile("a", 1e9, 8e6, 4e6, power_w=2.0), 1),
        ClientDevice(1, DeviceProfile("b", 2e9, 16e6, 8e6, round_trip_s=0.2, power_w=3.0), 1),
    )
    fleet = Fleet(clients, ServerProfile(10e9, 32e6, 32e6))
    problem = make_problem(fleet, costs, CorrectedLatency(costs))
    solution = np.zeros((1, 2, 1), dtype=np.int64)
    stages = problem.stages(solution[0])
    # Adam takes 13 FLOPs for the one parameter of each of a client's two blocks.
    assert stages == pytest.approx(
        {"autoencoder_forward": 5.2, "autoencoder_backward": 6.4, "optimizer": 26 / 1e9}
    )
    assert list(stages) == ["autoencoder_forward", "autoencoder_backward", "optimizer"]
    assert problem.latency_s(solution)[0] == pytest.approx(11.6)
    # Two passes, two cuts, two clients.
    assert problem.traffic_bytes(solution)[0] == 2 * 2 * 2 * 1e6
    # Work of both blocks forward, and of one parameter gradient and one full backward pass: 5e9.
    # 16e6 bits go up, 16e6 down: (5 + 2 + 4) s at 2 W and (2.5 + 1 + 2) s at 3 W.
    assert problem.energy_j(solution)[0] == pytest.approx(2 * 11 + 3 * 5.5)
    # Parameters, gradients and moments; what autograd keeps of one batch, and what is received.
    assert problem.networks[0].memory_bytes[0, 0] == 2 * 4 * 4 + 2 * 1e3 + 1e6


def draw_costs(num_blocks, observed):
    """Random blocks and, for each network, two forward and two kinds of backward passes."""
    rng = np.random.default_rng(3)
    blocks = {
        name: tuple(
            BlockCost(*np.exp(rng.uniform(np.log(1e6), np.log(1e9), 4)), *draw, 10**5, 25_000)
            for draw in np.exp(rng.uniform(np.log(1e3), np.log(1e5), (number, 2)))
        )
        for name, number in num_blocks.items()
    }
    passes = [
        (
            StepPass(name, "forward", 2, is_observed=name == observed),
            StepPass(name, "backward"),
            StepPass(name, "input_backward"),
        )
        for name in num_blocks
    ]
    return PlanCosts(blocks, tuple(one for passes_of in passes for one in passes_of))


@pytest.mark.parametrize(
    ("num_blocks", "observed"),
    [
        ({"autoencoder": 6}, None),
        ({"autoencoder": 6}, "autoencoder"),
        ({"encoder": 4, "decoder": 5, "critic": 4}, "decoder"),
    ],
)
@pytest.mark.parametrize("is_limited", [False, True])
def test_searches_equal_exhaustive_search(num_blocks, observed, is_limited):
    costs = draw_costs(num_blocks, observed)
    fleet, limits = draw_fleet(2, 30), Constraints(common_boundary=True)
    problem = make_problem(fleet, costs, CorrectedLatency(costs), limits)
    needed = sum(choices.memory_bytes.min(axis=1) for choices in problem.networks)
    if is_limited:
        fleet = limit_memory(fleet, 1.02 * float(needed.max()))
        problem = make_problem(fleet, costs, CorrectedLatency(costs), limits)
    everything = list_all(problem)
    score = problem.score(everything)
    assert problem.limits_memory == is_limited
    misses = problem.misses(everything)
    assert (misses.max() > 0) == (observed is not None)
    best = score.min()
    answer = solve_program(problem)
    assert answer.is_optimal and problem.score(answer.solution[None])[0] == pytest.approx(best)
    assert answer.lower_bound == pytest.approx(best)
    assert 0 < prove_bound(problem)[0] <= best * (1 + 1e-9)
    found = search_comparable(problem, lambda one: search_genetically(one, 0))
    assert problem.score(found[None])[0] == pytest.approx(best)
    turns = search_comparable(problem, lambda one: decide_by_turns(one)[0])
    assert problem.excess(turns[None])[0] == 0


def test_floors_are_those_of_each_network():
    costs = draw_costs({"encoder": 5, "decoder": 5}, None)
    limits = Constraints({"decoder": 3})
    problem = make_problem(draw_fleet(2, 31), costs, CorrectedLatency(costs), limits)
    encoder, decoder = problem.networks
    assert encoder.options[:, 0].min() == 1 and decoder.options.tolist() == [[3, 1]]
