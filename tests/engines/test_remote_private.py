"""Sites under differential privacy: who drops out, what is refused, what a step comes to."""

import threading

import pytest
import torch

from huscf.engines import DifferentialPrivacy
from huscf.engines.private.budget import RecordBudget
from huscf.engines.remote import Comparison, PrivateRemoteEngine, PrivateSiteHalf
from huscf.engines.remote.step import DroppedError
from huscf.randomness import derive_seed
from huscf.split import CutPlan
from huscf.wire.frames import Frame, FrameError, pack
from tests.conftest import SHAPE, make_batch, make_gan
from tests.engines.test_remote import Server, assert_bit_equal, whole_state

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2]}
ROSTER = {"a": (0,), "b": (1,)}
SIZES = dict.fromkeys(CUTS, 6)
RECORDS = dict.fromkeys(CUTS, 60)
PRIVACY = DifferentialPrivacy(1.0, 0.5, 1e-3, None, "rdp")


def gan():
    options = {"norm": "group", "fake_label_weights": [1, 1, 1], "engine": "serial"}
    module = make_gan(CUTS, privacy=PRIVACY, client_sizes=RECORDS, **options)
    module.engine.server.train()
    return module


class PrivateServer(Server):
    """As `serve` and `join` put it together, with what both draw by secrets drawn by seed 0."""

    def __init__(self, timeout_s=20.0):
        super().__init__(gan(), ROSTER, timeout_s)
        given = (self.method, self.networks, self.plan, SHAPE, RECORDS)
        self.engine = PrivateRemoteEngine(
            *given, privacy=PRIVACY, batch_sizes=SIZES, timeout_s=timeout_s
        )
        self.engine.sessions, self.engine.noise_seed = self.sessions, 0
        self.sessions._on_request = self.engine.answer
        self.engine.server.train()
        for name, site in self.sites.items():
            (client,) = ROSTER[name]
            plan = CutPlan(self.plan.blocks, (self.plan.by_client[client],))
            budget = RecordBudget(PRIVACY, {client: 6}, {client: 60})
            site.half = PrivateSiteHalf(
                *(self.method, self.networks, plan, SHAPE, {client: 0}, {client: 6}),
                comparison=Comparison("nothing"),
                budget=budget,
                noise_seed=0,
            )


@pytest.mark.parametrize("where", ["ask", "factors", "finish"])
def test_who_drops_out_of_a_private_phase_adds_nothing_and_has_taken_the_step(where):
    module, silence = gan(), threading.Event()
    with PrivateServer(timeout_s=1.0) as server:

        def hold(data):
            frame = Frame(data)
            at = {"ask": ("norms", []), "factors": ("norms", ["factors"]), "finish": ("finish", [])}
            if (frame.header["kind"], frame.names) == at[where]:
                silence.wait(20)

        late = server.sites["b"]
        late.on_frame = hold
        before = {n: t.clone() for n, t in late.half.get_state()["state_dict"].items()}
        assert server.engine.run_step([0, 1], 0).dropped == (1,)
        assert server.engine.budget.num_steps == {0: 1, 1: 1}
        assert late.half.budget.num_steps == {1: 1}
        # What is left is the step of the other alone, with noise for it alone.
        module.engine.run_step({0: make_batch([0, 1])[0]}, 0)
        found, wanted = server.state(), whole_state(module)
        own = {n: t for n, t in found.items() if ".clients.1." not in n and "moments.1" not in n}
        assert_bit_equal({n: wanted[n] for n in own}, own)
        silence.set()
        late.on_frame = lambda data: None
        server.wait(ROSTER)
        after = late.half.get_state()["state_dict"]
        assert [n for n in before if not torch.equal(before[n], after[n])] == []
        assert server.engine.run_step([0, 1], 1).dropped == ()
        assert server.engine.budget.num_steps == {0: 2, 1: 2}


def test_no_site_is_told_losses_of_other_sites_records():
    """They have no noise: who knows the mean and its own loss would know that of the others."""
    with PrivateServer() as server:
        sent = {}
        for name, site in server.sites.items():

            def note(data, name=name):
                frame = Frame(data)
                if frame.header["kind"] == "finish":
                    sent.setdefault(name, []).append(frame.header["losses"][0][1])

            site.on_frame = note
        found = server.engine.run_step([0, 1], 0).losses
        server.wait(ROSTER)
        told = {name: site.losses[0] for name, site in server.sites.items()}
    assert {name: list(losses.values()) for name, losses in told.items()} == sent
    assert sent["a"] != sent["b"] and len(sent["a"]) == 2
    means = [sum(each) / 2 for each in zip(*sent.values(), strict=True)]
    assert list(found.values()) == pytest.approx(means)


def test_noise_is_of_more_streams_than_anybody_can_try():
    """Torch's generators know 32 bits of a seed: two steps that agree in these have other noise."""
    known = {}
    for step in range(1 << 18):
        low = derive_seed(0, "noise of privacy", step, 0) & 0xFFFFFFFF
        if (first := known.setdefault(low, step)) != step:
            break
    else:
        pytest.fail("no two steps agree")
    with PrivateServer() as server:
        half, phase = server.sites["a"].half, server.method.phases(0)[0]
        found = []
        for each in (first, step, step):
            for parameter in (parameters := half.clients[0].parameters_of("discriminator")):
                parameter.grad = torch.zeros_like(parameter)
            half.finish_gradients(0, phase, each)
            found.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    assert abs(torch.corrcoef(torch.stack(found[:2]))[0, 1]) < 0.2 and len(found[0]) > 100
    assert torch.equal(found[1], found[2])
    assert float(found[0].std()) == pytest.approx(0.5 / 6, rel=0.2)


def pack_norms(content=None, **fields):
    header = {"kind": "norms", "seq": 1, "session": "", "client": 0, "step": 0, "phase": 0}
    return Frame(pack({**header, **fields}, content or {}))


FACTORS = torch.full((6,), 0.5)
WRONG_FACTORS = [
    ({"factors": FACTORS[:5]}, r"factors is \[5\]"),
    ({"factors": FACTORS.double()}, "float64"),
    ({"factors": FACTORS, "more": FACTORS}, "more"),
    ({"factor": FACTORS}, "factor"),
    ({"factors": FACTORS * 3}, "not from 0 to 1"),
    ({"factors": -FACTORS}, "not from 0 to 1"),
    ({"factors": FACTORS * float("nan")}, "not from 0 to 1"),
]


WRONG_COUNTS = [
    ([[0, 0]], "records: 0 of client 0"),
    ([[0, 61]], "records: 61 of client 0"),
    ([[1, 6]], "client 1 is not a client of a"),
]


def pack_request(kind, **fields):
    return Frame(pack({"kind": kind, "seq": 1, "session": "", "step": 0, **fields}, {}))


def list_wrong():
    """What does not fit before which of a client's frames, and why: by kind, phase and content."""
    early = pack_request("forward", phase=0, runs=[[0, "real"]])
    again = (pack_norms({"factors": FACTORS}), "to be asked for first")
    return {
        ("records", None, False): [
            *((pack_request("records", counts=own), reason) for own, reason in WRONG_COUNTS),
            (early, "client 0 has not told how many records"),
        ],
        ("norms", 0, False): [
            (pack_request("records", counts=[[0, 6]]), "those of client 0 are known"),
            again,
            (pack_norms(phase=1), "phase 1 is not running"),
        ],
        ("norms", 0, True): [(pack_norms(own), reason) for own, reason in WRONG_FACTORS],
        ("finish", 0, False): [again],
        ("finish", 1, False): [(pack_norms(phase=1), "this phase reads no records")],
    }


def test_norms_and_records_that_do_not_fit_are_refused_and_change_nothing():
    module, wrong, refused = gan(), list_wrong(), []
    with PrivateServer() as server:

        def spoil(data):
            frame = Frame(data)
            key = (frame.header["kind"], frame.header.get("phase"), bool(frame.names))
            for other, reason in wrong.get(key, ()):
                with pytest.raises(FrameError, match=reason):
                    server.engine.answer("a", other)
                refused.append(reason)
            if key[0] == "norms":
                with pytest.raises(DroppedError):
                    server.engine.answer("a", pack_norms(step=7))

        server.sites["a"].on_frame = spoil
        assert server.engine.run_step([0, 1], 0).dropped == ()
        module.engine.run_step(make_batch([0, 1]), 0)
        assert_bit_equal(whole_state(module), server.state())
    assert sorted(refused) == sorted(reason for each in wrong.values() for _, reason in each)


def test_a_run_that_clips_nothing_knows_no_norms():
    with Server(make_gan(CUTS, engine="serial"), ROSTER) as server:
        server.engine._step = server.engine.make_step(0, [0, 1])
        with pytest.raises(FrameError, match="this run clips no records"):
            server.engine.answer("a", pack_norms())
