from dataclasses import replace

import numpy as np
import pytest

from huscf.planning import (
    BlockCost,
    ClientDevice,
    CorrectedLatency,
    DeviceProfile,
    Fleet,
    PlanCosts,
    ServerProfile,
    make_problem,
)
from tests.planning.planning_cases import draw_choices, draw_fleet, gan_passes, make_subject


def uniform_costs(flops: float, size: float) -> tuple[BlockCost, ...]:
    one = BlockCost(flops, flops, flops, 2 * flops, size, 0.0, 0, 0)
    return (one, one, one)


def test_two_clients_by_hand():
    """Three equal blocks, so every client holds the first and the last.

    Block 1e9 FLOP and 1e6 bytes = 8e6 bits a sample, batch 1. Client a: 1 GFLOP/s, 8 Mbit/s up,
    4 Mbit/s down; b: 2 GFLOP/s, 16 up, 8 down, round trip 0.2 s. Server 10 GFLOP/s, 32 Mbit/s
    each way. A forward pass:
      a arrives 1 + 1 = 2.0 s, b arrives 0.5 + 0.5 + 0.1 = 1.1 s, both over the link 16e6/32e6 =
      0.5 s; E = 2.0 + 2 * 0.1 = 2.2; L = 2.2 + 0.5 = 2.7
      a: max(2.2 + 2, 2.7) + 1 = 5.2; b: max(2.2 + 1, 2.7) + 0.1 + 0.5 = 3.8; the pass takes 5.2 s.
    A full backward pass mirrors it with doubled work; its last block is the network's first,
    whose input needs no gradient and which therefore costs 1e9 FLOP:
      a arrives 2 + 1 = 3; E = 3 + 2 * 0.2 = 3.4; a: 3.4 + 2 + 1 = 6.4 s.
    An input-only backward pass costs as much as a forward pass: 5.2 s.
    Together: generator 5.2 + 6.4; discriminator 3 * 5.2 + 2 * 6.4 + 5.2 = 33.6; all 45.2 s.
    """
    clients = (
        ClientDevice(0, DeviceProfile("a", 1e9, 8e6, 4e6), 1),
        ClientDevice(1, DeviceProfile("b", 2e9, 16e6, 8e6, round_trip_s=0.2), 1),
    )
    fleet = Fleet(clients, ServerProfile(10e9, 32e6, 32e6))
    blocks = uniform_costs(1e9, 1e6)
    costs = PlanCosts({"generator": blocks, "discriminator": blocks}, gan_passes())
    problem = make_problem(fleet, costs, CorrectedLatency(costs))
    solution = np.zeros((2, 2), dtype=np.int64)
    assert problem.latency_s(solution[None])[0] == pytest.approx(45.2)
    stages = problem.stages(solution)
    assert stages["generator_forward"] == pytest.approx(5.2)
    assert stages["generator_backward"] == pytest.approx(6.4)
    assert stages["discriminator_backward"] == pytest.approx(12.8)
    assert stages["discriminator_input_backward"] == pytest.approx(5.2)
    # One batch more, of reals with wrong labels: 5.2 s forward and 6.4 s backward.
    costs = replace(costs, passes=gan_passes(mismatched_weight=1.0, mismatched_steps=None))
    problem = make_problem(fleet, costs, CorrectedLatency(costs))
    assert problem.latency_s(solution[None])[0] == pytest.approx(45.2 + 5.2 + 6.4)


def restate_pass(clients, cuts, q, s, server):
    """One pass, client by client and block by block, straight from the formulas."""
    m = len(q)
    arrive, finish = {}, 0.0
    for i, client in enumerate(clients):
        head, profile = cuts[i][0], client.profile
        up = min(profile.uplink_bits_per_s, server.uplink_bits_per_s)
        arrive[i] = client.batch_size * sum(q[:head]) / profile.speed_flops_per_s
        arrive[i] += 8 * client.batch_size * s[head - 1] / up + profile.round_trip_s / 2
    done = sent = 0.0
    for j in range(2, m):
        joining = [i for i in arrive if cuts[i][0] == j - 1]
        if joining:
            done = max(done, max(arrive[i] for i in joining))
            queued = sum(
                8 * clients[i].batch_size * s[cuts[i][0] - 1] for i in arrive if cuts[i][0] <= j - 1
            )
            done = max(done, queued / server.uplink_bits_per_s)
        present = [i for i in arrive if cuts[i][0] < j <= m - cuts[i][1]]
        done += q[j - 1] * sum(clients[i].batch_size for i in present) / server.speed_flops_per_s
        leaving = [i for i in arrive if m - cuts[i][1] == j]
        if leaving:
            total = sum(8 * clients[i].batch_size * s[j - 1] for i in leaving)
            sent = max(sent, done) + total / server.downlink_bits_per_s
        for i in leaving:
            profile, n = clients[i].profile, clients[i].batch_size
            down = min(profile.downlink_bits_per_s, server.downlink_bits_per_s)
            end = max(done + 8 * n * s[j - 1] / down, sent) + profile.round_trip_s / 2
            finish = max(finish, end + n * sum(q[j:]) / profile.speed_flops_per_s)
    return finish


def restate_step(fleet, costs, cuts):
    total = 0.0
    for side, blocks in enumerate(costs.blocks.values()):
        pairs = [tuple(c[2 * side : 2 * side + 2]) for c in cuts]
        mirrored = [pair[::-1] for pair in pairs]
        s = [block.output_bytes for block in blocks]
        s_back = [*s[:-1][::-1], 0.0]
        q = [block.forward_flops for block in blocks]
        full = [blocks[0].parameter_gradient_flops, *(b.backward_flops for b in blocks[1:])]
        only = [block.input_gradient_flops for block in blocks]
        forward = restate_pass(fleet.clients, pairs, q, s, fleet.server)
        back = restate_pass(fleet.clients, mirrored, full[::-1], s_back, fleet.server)
        back_only = restate_pass(fleet.clients, mirrored, only[::-1], s_back, fleet.server)
        total += forward + back if side == 0 else 3 * forward + 2 * back + back_only
        places = range(len(blocks))
        client_s = max(
            13
            * sum(blocks[b].num_params for b in places if b < h or b >= len(blocks) - t)
            / client.profile.speed_flops_per_s
            for client, (h, t) in zip(fleet.clients, pairs, strict=True)
        )
        served = {b for h, t in pairs for b in range(h, len(blocks) - t)}
        server_s = 13 * sum(blocks[b].num_params for b in served) / fleet.server.speed_flops_per_s
        total += max(client_s, server_s)
    return total


@pytest.mark.parametrize("depth", [4, 5, 8])
def test_corrected_model_equals_a_scalar_restatement(depth):
    subject = make_subject(width=8, depth=max(depth, 4))
    fleet = draw_fleet(6, seed=depth)
    problem = make_problem(fleet, subject.costs, CorrectedLatency(subject.costs))
    choices = draw_choices(problem, 60, seed=depth)
    vectorised = problem.latency_s(choices)
    for solution, seconds in zip(choices, vectorised, strict=True):
        cuts = [entry.cuts.as_list() for entry in problem.to_plan(solution).clients]
        assert seconds == pytest.approx(restate_step(fleet, subject.costs, cuts), rel=1e-12)
        assert sum(problem.stages(solution).values()) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("model", ["paper", "corrected"])
def test_grouped_evaluation_equals_one_by_client(make_paper_problem, model, paper_subject):
    grouped = make_paper_problem((3, 2, 4), latency_model=model)
    alone = make_problem(
        grouped.fleet,
        paper_subject.costs,
        grouped.model,
        group_by=lambda client: client.client_id,
    )
    choices = draw_choices(grouped, 20, seed=1)
    plans = [grouped.to_plan(solution) for solution in choices]
    singly = alone.latency_s(np.stack([alone.from_plan(plan) for plan in plans]))
    assert singly == pytest.approx(grouped.latency_s(choices), rel=1e-12)
    assert [alone.to_plan(alone.from_plan(plan)) for plan in plans] == plans
