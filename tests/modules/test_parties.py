"""Moving blocks between clients and server keeps every client's network as it was."""

import copy

import pytest
import torch

from huscf.modules.optimizer_state import copy_state, mix_state, replace_parameters
from huscf.split import ClientCuts, ClientPlan, CutPlan
from tests.conftest import make_batch, make_gan, run_step

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
    follow(module, module.parties.set_clusters(clusters, per_cluster=True))
    module.parties.average(weights, {})
    return module


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
    after = [optimizer.state[layer.weight]["exp_avg"] for layer in layers]
    expected = {
        "keep": before,
        "average": [(before[0] + before[1]) / 2] * 2,
        "reset": [torch.zeros(1, 2)] * 2,
    }[moments]
    for got, wanted in zip(after, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_averaged_generators_follow_with_the_decay_through_federation_and_new_cuts():
    module = make_gan(OLD, depth=5, ema_decay=0.9)
    one = {k: v.clone() for k, v in module.averaged.state_dict().items()}
    run_step(module, make_batch(OLD))
    module.update_average(1000)
    for key, value in module.averaged.state_dict().items():
        trained = module.parties.state_dict()[key]
        expected = 0.9 * one[key] + 0.1 * trained if value.is_floating_point() else trained
        torch.testing.assert_close(value, expected)
    module.federate({0: 0, 1: 0, 2: 1}, {0: 0.5, 1: 0.5, 2: 1.0})
    module.apply_plan(plan_of(NEW))
    assert module.averaged.state_dict().keys() <= module.parties.state_dict().keys()
    networks = [module.averaged.merged_network("generator", c).state_dict() for c in (0, 1)]
    for key, value in networks[0].items():
        torch.testing.assert_close(value, networks[1][key])
    module.update_average(0)
    assert not any(p.requires_grad for p in module.averaged.parameters())


def test_without_average_samples_come_from_the_trained_generator():
    module = make_gan({0: [1, 1, 1, 1]}, ema_decay=0.0)
    assert module.averaged is None
    module.update_average(3)
    network = module.parties.merged_network("generator", 0).eval()
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2])
    drawn = module.sample(0, labels, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn, network(noise, labels).detach())
