"""Moving blocks between clients and server keeps every client's network as it was."""

import copy

import pytest
import torch

from huscf.models import ConditionalDiscriminator, find_spectral_norms
from huscf.modules.optimizer_state import copy_state, mix_state, replace_parameters
from huscf.modules.parties import Parties
from huscf.split import ClientCuts, ClientPlan, CutPlan
from tests.conftest import SHAPE, make_batch, make_gan, run_step

OLD = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [3, 1, 1, 1]}
NEW = {0: [3, 1, 2, 1], 1: [1, 1, 1, 1], 2: [3, 1, 1, 2]}
NAMES = ("generator", "discriminator")


def plan_of(cuts):
    return CutPlan(5, 5, tuple(ClientPlan(c, ClientCuts(*v)) for c, v in cuts.items()))


def trained_gan():
    module = make_gan(OLD, depth=5)
    for step in range(2):
        run_step(module, make_batch(OLD, seed=step), step)
    clusters, weights = {0: 0, 1: 0, 2: 1}, {0: 0.5, 1: 0.5, 2: 1.0}
    federate(module, clusters, weights)
    return module


def federate(module, clusters, weights, moments="keep"):
    optimizers = {name: module.optimizer(name) for name in NAMES}
    module.parties.federate(clusters, weights, True, optimizers, moments)
    follow(module, {})


def follow(module, cloned_from):
    for name in NAMES:
        optimizer = module.optimizer(name)
        copy_state(optimizer, cloned_from)
        replace_parameters(optimizer, module.parties.parameters_of(name))


def merged_states(module):
    return {
        (c, n): copy.deepcopy(module.parties.merged_network(n, c).state_dict())
        for c in OLD
        for n in NAMES
    }


def test_every_client_keeps_its_network_and_has_its_new_cuts():
    module = trained_gan()
    before = merged_states(module)
    follow(module, module.parties.apply_plan(plan_of(NEW)))
    for key, state in merged_states(module).items():
        for name, value in state.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, before[key][name], rtol=1e-6, atol=1e-7)
    for client, cuts in NEW.items():
        for network in NAMES:
            head = module.parties.client(client).segment(network, "head")
            tail = module.parties.client(client).segment(network, "tail")
            expected = ClientCuts(*cuts)
            assert len(head.indices) == expected.head(network)
            assert len(tail.indices) == expected.tail(network)
    assert module.server.segment("generator", 0).indices == [1, 2, 3]
    assert module.server.segment("discriminator", 0).indices == [1, 2, 3]


def test_moved_blocks_bring_their_moments_and_training_goes_on():
    module = trained_gan()
    moved = module.parties.block("generator", 0, 1)
    optimizer = module.optimizer("generator")
    moments = [optimizer.state[p]["exp_avg"].clone() for p in moved.parameters()]
    follow(module, module.parties.apply_plan(plan_of(NEW)))
    arrived = module.parties.block("generator", 0, 1)
    assert arrived is not moved
    for parameter, expected in zip(arrived.parameters(), moments, strict=True):
        assert torch.equal(optimizer.state[parameter]["exp_avg"], expected)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in module.parties.parameters_of("generator")}
    assert set(map(id, optimizer.state)) <= held
    losses = run_step(module, make_batch(OLD, seed=5), 5)
    assert all(0 < value < 10 for value in losses.values())


def test_blocks_that_nobody_leaves_to_the_server_are_removed_from_it():
    module = make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}, depth=5)
    plan = plan_of({0: [2, 1, 1, 1], 1: [2, 2, 1, 1]})
    follow(module, module.parties.apply_plan(plan))
    assert module.server.segment("generator", 0).indices == [2, 3]


def test_an_unchanged_plan_moves_nothing():
    module = trained_gan()
    parameters = module.parties.parameters_of("discriminator")
    assert module.parties.apply_plan(plan_of(OLD)) == {}
    after = module.parties.parameters_of("discriminator")
    assert [id(p) for p in after] == [id(p) for p in parameters]


@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_moments_are_kept_averaged_or_reset(moments):
    layers = [torch.nn.Linear(2, 1, bias=False) for _ in range(2)]
    optimizer = torch.optim.Adam([layer.weight for layer in layers])
    for scale, layer in enumerate(layers, start=1):
        layer.weight.grad = torch.full((1, 2), float(scale))
    optimizer.step()
    before = [optimizer.state[layer.weight]["exp_avg"].clone() for layer in layers]
    mix_state(optimizer, layers, torch.full((2, 2), 0.5, dtype=torch.float64), moments)
    if moments == "reset":
        assert not optimizer.state
        return
    after = [optimizer.state[layer.weight]["exp_avg"] for layer in layers]
    expected = before if moments == "keep" else [(before[0] + before[1]) / 2] * 2
    for got, wanted in zip(after, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_steps_after_a_reset_are_as_long_as_first_ones():
    module = make_gan(OLD, depth=5)
    clusters, weights = dict.fromkeys(OLD, 0), dict.fromkeys(OLD, 1 / 3)
    for step in range(20):
        run_step(module, make_batch(OLD, seed=step), step)
    federate(module, clusters, weights, "reset")
    parameter = next(module.client(0).segment("generator", "head").parameters())
    before = parameter.detach().clone()
    run_step(module, make_batch(OLD, seed=20), 20)
    rate = module.learning_rates["generator"]
    assert 0.9 * rate < (parameter - before).abs().max() < 1.01 * rate


def server_parameter(module, client_id):
    return next(module.parties.block("generator", client_id, 2).parameters())


def test_a_client_that_changes_cluster_brings_its_weight_and_not_its_old_servers_blocks():
    cuts = {client: [1, 1, 1, 1] for client in range(6)}
    module = make_gan(cuts, depth=5)
    federate(module, {0: 0, 1: 0, 2: 1, 3: 0, 4: 1, 5: 1}, dict.fromkeys(cuts, 1 / 3))
    for step in range(3):
        run_step(module, make_batch(cuts, seed=step), step)
    first, second = (server_parameter(module, client) for client in (0, 4))
    states = module.optimizer("generator").state
    before = [(p.detach().clone(), states[p]["exp_avg"].clone()) for p in (first, second)]
    # Client 0 joins the other cluster, whose lowest number it now is.
    clusters = {0: 1, 1: 0, 2: 1, 3: 0, 4: 1, 5: 1}
    federate(module, clusters, {0: 0.1, 1: 0.5, 2: 0.3, 3: 0.5, 4: 0.3, 5: 0.3})
    expected = {0: before[0][0], 1: 0.1 * before[0][0] + 0.9 * before[1][0]}
    for client, cluster in clusters.items():
        parameter = server_parameter(module, client)
        torch.testing.assert_close(parameter.detach(), expected[cluster])
        assert torch.equal(states[parameter]["exp_avg"], before[cluster][1])


def test_the_server_blocks_of_clusters_that_merge_are_averaged_like_the_clients():
    cuts = {client: [1, 1, 1, 1] for client in range(4)}
    module = make_gan(cuts, depth=5)
    federate(module, {0: 0, 1: 1, 2: 1, 3: 1}, {0: 1.0, 1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    for step in range(3):
        run_step(module, make_batch(cuts, seed=step), step)
    first, second = (server_parameter(module, client).detach().clone() for client in (0, 1))
    federate(module, dict.fromkeys(cuts, 0), {0: 0.4, 1: 0.2, 2: 0.2, 3: 0.2})
    assert module.server.num_copies == 1
    merged = server_parameter(module, 2).detach()
    torch.testing.assert_close(merged, 0.4 * first + 0.6 * second)
    held = {id(p) for p in module.optimizer("generator").param_groups[0]["params"]}
    assert set(map(id, module.optimizer("generator").state)) <= held


@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
def test_a_diverged_client_recovers_with_the_average(moments):
    # Client 3 is a cluster by itself, whose copy of block 1 at the server nobody has trained.
    large, small = [2, 1, 2, 1], [1, 1, 1, 1]
    cuts = {0: large, 1: large, 2: small, 3: large}
    clusters, weights = {0: 0, 1: 0, 2: 0, 3: 1}, {0: 0.25, 1: 0.25, 2: 0.5, 3: 1.0}
    module = make_gan(cuts, depth=5, on_nonfinite="drop")
    federate(module, clusters, weights)
    run_step(module, make_batch(cuts))
    head = module.client(0).segment("discriminator", "head")
    for parameter in head.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    module.optimizer("discriminator").step()
    assert not module.client(0).is_finite()
    federate(module, clusters, {0: 0.0, 1: 0.5, 2: 0.5, 3: 1.0}, moments)
    if moments == "average":
        states = module.optimizer("discriminator").state
        held = [next(module.parties.block("discriminator", c, 1).parameters()) for c in (0, 1, 2)]
        first, *others = (states[parameter]["exp_avg"] for parameter in held)
        assert all(torch.equal(first, other) for other in others)
    for step in range(1, 4):
        run_step(module, make_batch(cuts, seed=step), step)
    assert module.client(0).is_finite()
    assert module.num_dropped[0] == 0


def test_a_block_that_clusters_come_to_share_at_the_server_is_the_mean_of_its_users():
    cuts = {client: [2, 1, 1, 1] for client in range(3)}
    module = make_gan(cuts, depth=5)
    module.parties.federate({0: 0, 1: 0, 2: 1}, {0: 0.5, 1: 0.5, 2: 1.0}, False)
    for step in range(2):
        run_step(module, make_batch(cuts, seed=step), step)
    before = [next(module.parties.block("generator", c, 1).parameters()).clone() for c in cuts]
    module.parties.apply_plan(plan_of({0: [1, 1, 1, 1], 1: [2, 1, 1, 1], 2: [1, 1, 1, 1]}))
    shared = next(module.server.segment("generator", 0).block(1).parameters())
    torch.testing.assert_close(shared, (before[0] + before[2]) / 2)
    kept = next(module.parties.block("generator", 1, 1).parameters())
    assert torch.equal(kept, before[1])


def test_a_moving_average_of_normalised_layers_has_the_norms_of_its_own_weights():
    networks = [
        ConditionalDiscriminator(SHAPE, width=8, depth=5, spectral_norm=True) for _ in range(2)
    ]
    average, other = (Parties(plan_of(OLD), {"discriminator": network}) for network in networks)
    for _ in range(3):
        average.follow(other, 0.5)
    for client in OLD:
        for block in average.blocks_of("discriminator", client):
            for weight in find_spectral_norms(block.eval()):
                norm = torch.linalg.matrix_norm(weight().flatten(1), 2).item()
                assert norm == pytest.approx(1, abs=0.05)
