"""Moving blocks between clients and server keeps every client's network as it was."""

import copy
from collections import Counter

import pytest
import torch

from huscf.engines import Mixture
from huscf.split import ClientCuts
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import NAMES, Recorder, plan_of

OLD = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [3, 1, 1, 1]}
NEW = {0: [3, 1, 2, 1], 1: [1, 1, 1, 1], 2: [3, 1, 1, 2]}


def trained_gan(engine="stacked", **options):
    module = make_gan(OLD, depth=5, engine=engine, **options)
    for step in range(2):
        run_step(module, make_batch(OLD, seed=step), step)
    module.engine.mix(Mixture({0: 0, 1: 0, 2: 1}, {0: 0.5, 1: 0.5, 2: 1.0}))
    return module


def whole_states(module):
    return {
        (c, n, h): copy.deepcopy(module.engine.whole_network(n, c, h).state_dict())
        for c in OLD
        for n, h in [(n, "trained") for n in NAMES] + [("generator", "average")]
    }


def held_by_optimizers(party):
    return [p for o in party.optimizers.values() for p in o.param_groups[0]["params"]]


def assert_consistent(module):
    """Every party steps exactly its own parameters, once each, and keeps no others' state."""
    for party in module.engine.all_parties().values():
        held = held_by_optimizers(party)
        assert {*map(id, held)} == {id(p) for p in party.trained.parameters()}
        assert len({*map(id, held)}) == len(held)
        for optimizer in party.optimizers.values():
            own = {id(p) for p in optimizer.param_groups[0]["params"]}
            assert {*map(id, optimizer.state)} <= own


@pytest.mark.parametrize("engine", ENGINES)
def test_every_client_keeps_its_network_and_has_its_new_cuts(engine):
    module = trained_gan(engine)
    before = whole_states(module)
    module.engine.apply_plan(plan_of(NEW))
    assert module.plan == plan_of(NEW)
    for key, state in whole_states(module).items():
        for name, value in state.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, before[key][name], rtol=1e-6, atol=1e-7)
    for client, cuts in NEW.items():
        for network in NAMES:
            for holding in module.client(client).holdings:
                if network not in holding.network_names:
                    continue
                expected = ClientCuts.from_list(cuts, NAMES)
                ends = [len(holding.segment(network, end).indices) for end in ("head", "tail")]
                assert ends == [expected.head(network), expected.tail(network)]
    assert module.server.segment("generator", 0).indices == [1, 2, 3]
    assert module.server.segment("discriminator", 0).indices == [1, 2, 3]
    assert_consistent(module)
    losses = run_step(module, make_batch(OLD, seed=5), 5)
    assert all(0 < value < 10 for value in losses.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_moved_blocks_bring_their_moments_and_training_goes_on(engine):
    module = trained_gan(engine)
    moved = module.engine.block("generator", 0, 1)
    states = module.server.optimizers["generator"].state
    moments = [{k: v.clone() for k, v in states[p].items()} for p in moved.parameters()]
    module.engine.apply_plan(plan_of(NEW))
    arrived = module.engine.block("generator", 0, 1)
    assert arrived is module.client(0).blocks("generator")[1] is not moved
    states = module.client(0).optimizers["generator"].state
    for parameter, expected in zip(arrived.parameters(), moments, strict=True):
        assert states[parameter].keys() == expected.keys()
        assert all(torch.equal(states[parameter][k], v) for k, v in expected.items())
    assert_consistent(module)


def test_what_has_moved_is_reported_and_counted_as_it_was_sent():
    wire = Recorder()
    module = trained_gan(wire=wire)
    sent_before, count = module.wire.traffic.total(), len(wire.messages)
    moves = module.engine.apply_plan(plan_of(NEW))
    messages = wire.messages[count:]
    assert {m.kind for m in messages} == {"moved_blocks"}
    found = Counter()
    for m in moves:
        found[m.client_id, m.network, m.direction] += m.num_bytes
    sent = Counter()
    for m in messages:
        sent[m.client_id, m.topic.removesuffix(" average"), m.direction] += m.num_bytes
    assert found == sent
    assert len({(m.client_id, m.network, m.block) for m in moves}) == len(moves)
    assert module.wire.traffic.total() - sent_before == sum(m.num_bytes for m in moves)
    # Client 0 gets what it has not held; the server has all that others give back.
    down = {(m.network, m.block) for m in moves if m.client_id == 0}
    assert down == {("generator", 1), ("generator", 2), ("discriminator", 1)}


def test_blocks_that_nobody_leaves_to_the_server_are_removed_from_it():
    module = make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}, depth=5)
    module.engine.apply_plan(plan_of({0: [2, 1, 1, 1], 1: [2, 2, 1, 1]}))
    assert module.server.segment("generator", 0).indices == [2, 3]
    assert_consistent(module)


def test_an_unchanged_plan_moves_nothing():
    module = trained_gan()
    before = {k: id(p) for k, p in module.parties.named_parameters()}
    assert module.engine.apply_plan(plan_of(OLD)) == ()
    assert {k: id(p) for k, p in module.parties.named_parameters()} == before


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_move_alike(engine):
    states = []
    for each in (engine, ENGINES[0]):
        module = trained_gan(each, norm="none", weight_std=0.2)
        module.engine.apply_plan(plan_of(NEW))
        run_step(module, make_batch(OLD, seed=7), 2)
        states.append(module.parties.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)


def test_a_block_that_clusters_come_to_share_at_the_server_is_the_mean_of_its_users():
    cuts = {client: [2, 1, 1, 1] for client in range(3)}
    module = make_gan(cuts, depth=5)
    module.engine.mix(Mixture({0: 0, 1: 0, 2: 1}, {0: 0.5, 1: 0.5, 2: 1.0}, per_cluster=False))
    for step in range(2):
        run_step(module, make_batch(cuts, seed=step), step)
    before = [next(module.engine.block("generator", c, 1).parameters()).clone() for c in cuts]
    module.engine.apply_plan(plan_of({0: [1, 1, 1, 1], 1: [2, 1, 1, 1], 2: [1, 1, 1, 1]}))
    shared = next(module.server.segment("generator", 0).block(1).parameters())
    torch.testing.assert_close(shared, (before[0] + before[2]) / 2)
    kept = next(module.engine.block("generator", 1, 1).parameters())
    assert torch.equal(kept, before[1])
