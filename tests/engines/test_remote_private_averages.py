"""Averages that hide whole clients, where these live at sites."""

import numpy as np
import pytest
import torch

from huscf.engines import ClientPrivacy, Mixture, PrivateAverages
from huscf.methods import FedGan
from huscf.wire.frames import Frame
from tests.conftest import make_batch, make_gan
from tests.engines.test_private_averages import expect
from tests.engines.test_remote import Server, assert_bit_equal, whole_state

ROSTER = {"a": (0, 1), "b": (2,), "c": (3, 4)}
CLUSTERS = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1}
EVEN = {c: 1 / 3 if c < 3 else 1 / 2 for c in CLUSTERS}


def gan():
    cuts = {client: [3, 1, 3, 1] for client in CLUSTERS}
    module = make_gan(cuts, method_class=FedGan, norm="group", ema_decay=0.5, engine="serial")
    module.engine.server.train()
    return module


def mixture(noise, most):
    private = PrivateAverages(ClientPrivacy(noise, most, 1e-3))
    return Mixture(CLUSTERS, EVEN, moments="reset", private=private)


def read(server, client_id):
    """What a client trains, as one vector."""
    (half,) = (s.half for s in server.sites.values() if client_id in s.half.clients)
    state = half.clients[client_id].trained.state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)]).numpy()


def test_rounds_are_those_of_one_process_where_both_draw_by_one_seed():
    module, frames = gan(), []
    one, other = mixture(1.0, 0.05), mixture(1.0, 0.05)
    with Server(gan(), ROSTER) as server:
        server.engine.noise_seed = module.engine.seed
        for site in server.sites.values():
            site.on_frame = lambda data: frames.append(Frame(data))
        for number in range(2):
            module.engine.run_step(make_batch(CLUSTERS, seed=number), number)
            server.engine.run_step(range(5), number)
            module.engine.mix(one)
            server.engine.mix(other)
            assert_bit_equal(whole_state(module), server.state())
    assert not server.sessions.refused
    assert one.private.figures() == other.private.figures()
    assert one.private.num_rounds == other.private.num_rounds == 2
    # Moving averages begin anew from what has noise, and are not sent.
    sent = [ref for f in frames if f.header["kind"] == "block" for ref in f.header["refs"]]
    assert {holding for _, holding, *_ in sent} == {"trained"}
    assert len(sent) == 2 * 5 * sum(count for _, count in server.plan.blocks)
    assert server.engine.wire.traffic.state_dict() == module.wire.traffic.state_dict()


def test_the_noise_follows_from_no_seed_that_sites_know():
    found = []
    for _ in range(2):
        with Server(gan(), ROSTER) as server:
            server.engine.mix(mixture(1.0, 0.5))
            found.append(read(server, 0) - read(server, 3))
    # Of clusters of three and two, whose clients have changed nothing.
    scale = 0.5 * np.hypot(1 / 3, 1 / 2)
    for each in (*found, (found[0] - found[1]) / np.sqrt(2)):
        assert each.std() == pytest.approx(scale, rel=4 / np.sqrt(2 * each.size))


def test_who_is_away_counts_among_the_clients_and_keeps_what_it_has():
    mixed = mixture(0.0, 0.02)
    with Server(gan(), ROSTER) as server:
        before = {c: read(server, c) for c in CLUSTERS}
        server.engine.run_step(range(5), 0)
        after = {c: read(server, c) for c in CLUSTERS}
        present = [c for c in CLUSTERS if c != 2]
        server.engine.present_clients = lambda: present
        server.engine.mix(mixed)
        # As if it had changed nothing: it takes no share of the others' bounds.
        wanted = expect(before, {**after, 2: before[2]}, 0.02, [0, 1, 2])
        for client in (0, 1):
            np.testing.assert_allclose(read(server, client), wanted, rtol=0, atol=3e-7)
        assert np.array_equal(read(server, 2), after[2])
        # Back, it is measured by what it last got.
        del server.engine.present_clients
        starts = {0: read(server, 0), 1: read(server, 1), 2: before[2]}
        server.engine.run_step(range(5), 1)
        after = {c: read(server, c) for c in CLUSTERS}
        server.engine.mix(mixed)
        wanted = expect(starts, after, 0.02, [0, 1, 2])
        for client in (0, 1, 2):
            np.testing.assert_allclose(read(server, client), wanted, rtol=0, atol=3e-7)
    assert mixed.private.num_rounds == 2


def test_a_cluster_of_which_nobody_is_there_ends_no_round_and_costs_nothing():
    mixed = mixture(1.0, 0.5)
    with Server(gan(), ROSTER) as server:
        before = {c: read(server, c) for c in CLUSTERS}
        server.engine.present_clients = lambda: [0, 1, 2]
        server.engine.mix(mixed)
        assert all(np.array_equal(read(server, c), before[c]) for c in CLUSTERS)
    assert mixed.private.num_rounds == 0


def test_a_round_is_kept_before_any_of_it_leaves():
    mixed, frames = mixture(1.0, 0.5), []
    with Server(gan(), ROSTER) as server:
        for site in server.sites.values():
            site.on_frame = lambda data: frames.append(Frame(data).header["kind"])
        mixed.private.keep = lambda: frames.append("kept")
        server.engine.mix(mixed)
    assert frames.count("block") == 3 and frames.count("fetch") == 3 and frames.count("kept") == 1
    kinds = [kind for kind in frames if kind in ("block", "kept", "fetch")]
    assert kinds[3] == "kept"


@pytest.mark.parametrize("tells", [True, False])
def test_a_site_hears_of_others_losses_only_where_it_may(tells):
    with Server(gan(), ROSTER) as server:
        server.engine.tells_losses = tells
        found = server.engine.run_step(range(5), 0).losses
        server.wait(ROSTER)
        told = [site.losses[0] for site in server.sites.values()]
    if tells:
        assert all(each == found for each in told)
    else:
        assert len({tuple(each.values()) for each in told}) == 3
        for phase, loss in found.items():
            a, b, c = (each[phase] for each in told)
            assert (2 * a + b + 2 * c) / 5 == pytest.approx(loss)
