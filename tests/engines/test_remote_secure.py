"""Secure sums over sites: those of one process bit for bit, also where a site drops out."""

import copy
from types import SimpleNamespace

import pytest
import torch

from huscf.engines import Mixture
from huscf.engines.remote import Dismissed, SiteMembers
from huscf.engines.remote.secure_sums import SiteSums
from huscf.wire.frames import Frame
from tests.conftest import make_batch, make_gan
from tests.engines.test_remote import Server, assert_bit_equal, whole_state

CUTS = {client: [1, 1, 2, 1] for client in range(6)}
#: Cluster 0 has five members at four sites, cluster 1 one.
CLUSTERS = {**dict.fromkeys(range(5), 0), 5: 1}
WEIGHTS = {0: 0.3, 1: 0.1, 2: 0.25, 3: 0.15, 4: 0.2, 5: 1.0}
ROSTER = {"a": (0, 1), "b": (2,), "c": (3, 5), "d": (4,)}
MIXTURE = Mixture(CLUSTERS, WEIGHTS, is_secure=True)


def gan():
    module = make_gan(CUTS, depth=4, engine="serial", ema_decay=0.5)
    module.engine.server.train()
    return module


def serve(timeout_s=20.0):
    server = Server(gan(), ROSTER, timeout_s)
    for site in server.sites.values():
        site.members = SiteMembers(site.half)
    return server


def test_sums_over_sites_are_those_of_one_process_and_nothing_is_in_the_clear():
    module, frames = gan(), []
    with serve() as server:
        for site in server.sites.values():
            site.on_frame = lambda data: frames.append(Frame(data))
        for number in range(2):
            module.engine.run_step(make_batch(CUTS, seed=number), number)
            server.engine.run_step(range(6), number)
            frames.clear()
            module.engine.mix(MIXTURE)
            server.engine.mix(MIXTURE)
            assert_bit_equal(whole_state(module), server.state())
            blocks = [frame for frame in frames if frame.header["kind"] == "block"]
            assert all(n.endswith(".masked") for frame in blocks for n in frame.names)
            refs = [ref for frame in blocks for ref in frame.header["refs"]]
            assert len(refs) == sum(len(frame.names) for frame in blocks)
            assert {client_id for client_id, *_ in refs} == set(range(5))
            assert len(blocks) == len(server.sites)  # each sends all in one frame
    assert not server.sessions.refused and not server.engine.notes
    # Blocks count the same on both wires, masked ones up and plain ones down; here keys and
    # shares are in headers.
    one, other = (e.wire.traffic for e in (module.engine, server.engine))
    for topic in ("generator", "generator average", "discriminator"):
        for direction in ("uplink", "downlink"):
            counts = [
                {k: n for k, n in t.num_bytes.items() if k[1:] == ("blocks", topic, direction)}
                for t in (one, other)
            ]
            assert counts[0] == counts[1] and counts[0]


def test_a_site_that_says_nonsense_within_a_sum_is_left_out_of_it_alone():
    sums = SiteSums.__new__(SiteSums)
    sums.cluster_of = dict.fromkeys(range(4), 0)
    roster = {"a": (0, 1), "b": (2,), "c": (3,)}
    sums.engine = SimpleNamespace(sessions=SimpleNamespace(roster=roster))
    answers = {
        "a": {"public": [[0, b"k0"], [1, b"k1"], [2, b"not its own"]]},
        "b": {"public": "keys"},
        "c": {},
    }
    assert sums._read(answers, "public") == {0: b"k0", 1: b"k1"}


@pytest.mark.parametrize("kind", ["sum_keys", "sum_shares", "sum_give", "sum_reveal"])
def test_a_site_that_falls_silent_is_left_out_of_the_sum(kind, monkeypatch):
    lost = 4
    answer = SiteMembers.answer

    def fall_silent(members, command, ask):
        if command["kind"] == kind and lost in members.half.clients:
            raise Dismissed("silent")  # its thread ends, and its session answers no more
        return answer(members, command, ask)

    monkeypatch.setattr(SiteMembers, "answer", fall_silent)
    with serve(timeout_s=4.0) as server:
        server.engine.run_step(range(6), 0)
        before = {
            c: copy.deepcopy(site.half.clients[c].state_dict())
            for site in server.sites.values()
            for c in site.half.clients
        }
        server.engine.mix(MIXTURE)
        assert not server.engine.notes
        # Where its words had come before it fell silent, they count.
        owners = range(5) if kind == "sum_reveal" else range(4)
        total = sum(WEIGHTS[c] for c in owners)
        after = server.sites["a"].half.clients[0].state_dict()
        for name, tensor in after.items():
            if name.startswith("trained") and tensor.is_floating_point() and "running" not in name:
                mean = sum(WEIGHTS[c] / total * before[c][name].double() for c in owners)
                torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


def test_a_round_in_which_too_few_stay_averages_nothing_and_says_so(monkeypatch):
    answer = SiteMembers.answer

    def fall_silent(members, command, ask):
        if command["kind"] == "sum_give" and {0, 4} & members.half.clients.keys():
            raise Dismissed("silent")
        return answer(members, command, ask)

    monkeypatch.setattr(SiteMembers, "answer", fall_silent)
    with serve(timeout_s=4.0) as server:
        server.engine.run_step(range(6), 0)
        before = {name: tensor.clone() for name, tensor in server.state().items()}
        server.engine.mix(MIXTURE)
        assert_bit_equal(before, server.state())
        assert server.engine.notes == [
            "nothing is averaged in this round: secure sums: 2 of 5 members are left, needs 4"
        ]
