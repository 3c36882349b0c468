"""Averages that hide whole clients, where these live at sites."""

import time

import numpy as np
import pytest
import torch

from huscf.engines import ClientPrivacy, Mixture, PrivateAverages
from huscf.engines.remote import Dropped, LastAverages
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


def serve(mixed, **options):
    server = Server(gan(), ROSTER, **options)
    server.engine.averages = LastAverages(server.engine, mixed.private)
    return server


def read(server, client_id, holding="trained"):
    """What a client holds, as one vector."""
    (half,) = (s.half for s in server.sites.values() if client_id in s.half.clients)
    state = getattr(half.clients[client_id], holding).state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)]).numpy()


def test_rounds_are_those_of_one_process_where_both_draw_by_one_seed():
    module, frames = gan(), []
    one, other = mixture(1.0, 0.05), mixture(1.0, 0.05)
    with serve(other) as server:
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
        mixed = mixture(1.0, 0.5)
        with serve(mixed) as server:
            server.engine.mix(mixed)
            found.append(read(server, 0) - read(server, 3))
    # Of clusters of three and two, whose clients have changed nothing.
    scale = 0.5 * np.hypot(1 / 3, 1 / 2)
    for each in (*found, (found[0] - found[1]) / np.sqrt(2)):
        assert each.std() == pytest.approx(scale, rel=4 / np.sqrt(2 * each.size))


def test_who_is_away_counts_as_unchanged_and_goes_on_from_the_last_average():
    mixed = mixture(0.0, 0.02)
    with serve(mixed) as server:
        before = {c: read(server, c) for c in CLUSTERS}
        server.engine.run_step(range(5), 0)
        after = {c: read(server, c) for c in CLUSTERS}
        present = [c for c in CLUSTERS if c != 2]
        server.engine.present_clients = lambda: present
        server.engine.mix(mixed)
        wanted = expect(before, {**after, 2: before[2]}, 0.02, [0, 1, 2])
        for client in (0, 1):
            np.testing.assert_allclose(read(server, client), wanted, rtol=0, atol=3e-7)
        assert np.array_equal(read(server, 2), after[2])
        del server.engine.present_clients
        last = dict.fromkeys((0, 1, 2), read(server, 0))
        assert server.engine.averages.bring(range(5)) == [0, 1, 2, 3, 4]
        assert np.array_equal(read(server, 2), last[2])
        assert np.array_equal(read(server, 2, "average"), read(server, 0, "average"))
        server.engine.run_step(range(5), 1)
        after = {c: read(server, c) for c in CLUSTERS}
        server.engine.mix(mixed)
        wanted = expect(last, after, 0.02, [0, 1, 2])
        for client in (0, 1, 2):
            np.testing.assert_allclose(read(server, client), wanted, rtol=0, atol=3e-7)
    assert mixed.private.num_rounds == 2


def test_who_comes_and_goes_moves_an_average_by_the_bound_alone():
    """Rounds away, and back with old blocks: the others' average is not pulled to these."""
    mixed = mixture(0.0, 0.02)
    with serve(mixed) as server:
        present = [c for c in CLUSTERS if c != 2]
        for step in range(4):
            server.engine.run_step(present, step)
            server.engine.present_clients = lambda: present
            server.engine.mix(mixed)
            del server.engine.present_clients
        last = read(server, 0)
        assert np.linalg.norm(last - read(server, 2)) > 0.02
        server.engine.averages.bring = list  # a site that goes on from what it has, all the same
        server.engine.run_step([2], 4)
        server.engine.mix(mixed)
        assert np.linalg.norm(read(server, 0) - last) == pytest.approx(0.02 / 3, rel=1e-3)


def test_who_is_late_with_its_blocks_is_left_out_and_nobody_is_asked_twice():
    mixed = mixture(0.0, 0.02)
    with serve(mixed, timeout_s=2.0) as server:
        half, asked = server.sites["b"].half, []

        def give(command, ask):
            asked.append(command)
            time.sleep(3.0)
            send(command, ask)

        send, half.give = half.give, give
        before = {c: read(server, c) for c in CLUSTERS}
        server.engine.run_step(range(5), 0)
        after = {c: read(server, c) for c in CLUSTERS}
        server.engine.mix(mixed)
        wanted = expect(before, {**after, 2: before[2]}, 0.02, [0, 1, 2])
        for client in (0, 1):
            np.testing.assert_allclose(read(server, client), wanted, rtol=0, atol=3e-7)
        server.wait(ROSTER)
        assert len(asked) == 1 and not server.sessions.refused
        assert server.engine.averages.get_state()["owed"] == [0, 1, 2, 3, 4]
        server.engine.run_step(range(5), 1)
        assert server.engine.averages.bring([2]) == [2]
    assert mixed.private.num_rounds == 1


def test_what_did_not_arrive_is_brought_before_the_next_step():
    mixed = mixture(0.0, 0.02)
    with serve(mixed) as server:
        half = server.sites["b"].half
        take, half.take = half.take, drop
        server.engine.run_step(range(5), 0)
        own = read(server, 2)
        server.engine.mix(mixed)
        assert np.array_equal(read(server, 2), own)
        averages = server.engine.averages
        assert [c for c in CLUSTERS if not averages.is_settled(c)] == [2]
        # As long as it has not got it, it takes no part.
        assert server.engine.run_step(range(5), 1).dropped == ()
        assert np.array_equal(read(server, 2), own) and averages.trained == {0, 1, 3, 4}
        half.take = take
        server.engine.run_step(range(5), 2)
        assert averages.trained == set(CLUSTERS)
        # A process that went on from what it saved last has it only if it was saved since.
        averages.note_saved([0, 1, 2])
        averages.note_join(CLUSTERS)
        assert averages.get_state() == {"owed": [3, 4], "trained": [0, 1, 2, 3, 4]}
        assert averages.settle() and averages.trained == set()
        assert np.array_equal(read(server, 0), read(server, 2))
        assert not averages.settle()


def drop(*_):
    raise Dropped


def test_a_cluster_of_which_nobody_is_there_ends_no_round_and_costs_nothing():
    mixed = mixture(1.0, 0.5)
    with serve(mixed) as server:
        before = {c: read(server, c) for c in CLUSTERS}
        server.engine.present_clients = lambda: [0, 1, 2]
        server.engine.mix(mixed)
        assert server.engine.notes == [
            "nothing is averaged in this round: of some cluster nobody is there"
        ]
        assert all(np.array_equal(read(server, c), before[c]) for c in CLUSTERS)
    assert mixed.private.num_rounds == 0


def test_a_round_is_kept_before_any_of_it_leaves():
    mixed, frames = mixture(1.0, 0.5), []
    with serve(mixed) as server:
        for site in server.sites.values():
            site.on_frame = lambda data: frames.append(Frame(data).header["kind"])
        mixed.private.keep = lambda: frames.append("kept")
        server.engine.mix(mixed)
    assert frames.count("block") == 3 and frames.count("fetch") == 3 and frames.count("kept") == 1
    kinds = [kind for kind in frames if kind in ("block", "kept", "fetch")]
    assert kinds[3] == "kept"


@pytest.mark.parametrize("tells", [True, False])
def test_a_site_hears_of_others_losses_only_where_it_may(tells):
    mixed = mixture(1.0, 0.5)
    with Server(gan(), ROSTER) if tells else serve(mixed) as server:
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
