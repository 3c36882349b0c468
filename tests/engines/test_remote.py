"""Clients at sites of their own give what clients of one process give, bit for bit."""

import copy
import math
import threading
from collections import Counter
from contextlib import suppress

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

from huscf.engines import Mixture
from huscf.engines.remote import (
    SUM_COMMANDS,
    BlockRef,
    Caller,
    Dismissed,
    Dropped,
    Rejoin,
    RemoteEngine,
    Sessions,
    SiteHalf,
    SiteMembers,
    parts,
)
from huscf.engines.remote.expected import open_frame
from huscf.engines.remote.step import RemoteStep
from huscf.errors import HuscfError, NonFiniteError
from huscf.methods import RateSchedule, build_networks
from huscf.models import ConditionalDiscriminator
from huscf.parties import read_block
from huscf.split import ClientCuts, ClientPlan, CutPlan
from huscf.wire import DefendedWire, MemoryWire, TensorSpec
from huscf.wire.defended_wire import DEFENDED
from huscf.wire.frames import Frame, FrameError, pack
from tests.conftest import SHAPE, make_batch, make_gan
from tests.engines.cases import load
from tests.wire.test_frames import broken_frames

PROFILES = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1], 3: [2, 2, 2, 2]}
WAIT_S = 0.5
JOINING = {"version": "test", "clients": [[60, 6]], "shape": [1, 8, 3], "device": None}


class Site:
    """A site in a thread, over a wire in memory."""

    def __init__(self, server, name):
        self.server, self.name, self.reason = server, name, None
        own = tuple(server.plan.by_client[c] for c in server.roster[name])
        plan = CutPlan(server.plan.blocks, own)
        seeds, sizes = dict.fromkeys(plan.client_ids, 0), dict.fromkeys(plan.client_ids, 6)
        self.half = SiteHalf(
            server.method, server.networks, plan, SHAPE, seeds, sizes, server.make_wire
        )
        self.members = SiteMembers(self.half)
        self.caller = Caller(lambda data: self.exchange(data))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.on_frame = lambda data: None
        self.losses = []

    def exchange(self, data):
        self.on_frame(data)
        return self.server.sessions.handle(self.name, data)

    def run(self):
        torch.set_num_threads(1)
        sizes = [[60, 6] for _ in self.half.clients]
        self.caller.join({**JOINING, "clients": sizes})
        answers, answer = 0, None
        try:
            while True:
                ask = self.caller.ask
                command = ask("ready", {"answers": answers, "answer": answer}).header
                answers, answer = command.get("number", answers), {}
                if command["kind"] == "step":
                    batch = make_batch(self.server.plan.client_ids, seed=command["step"])
                    self.losses.append(self.half.run_step(command, batch, ask))
                elif command["kind"] == "close":
                    answer = self.half.close(command, ask)
                elif command["kind"] == "move":
                    self.half.move(command["cuts"], ask)
                elif command["kind"] in ("give", "take"):
                    with suppress(Dropped):
                        answer = getattr(self.half, command["kind"])(command, ask) or {}
                elif command["kind"] in SUM_COMMANDS:
                    answer = self.members.answer(command, ask)
        except Dismissed as goodbye:
            self.reason = str(goodbye)
        except HuscfError as error:
            if "another process" not in (reason := str(error)):
                raise
            self.reason = reason


class Server:
    """The server's half and its sites, as `serve` and `join` put them together."""

    def __init__(self, module, roster, timeout_s=20.0, make_wire=MemoryWire):
        one = module.engine
        self.make_wire = make_wire
        self.roster, self.plan, self.method = roster, one.plan, one.method
        self.networks = build_networks(one.method, SHAPE, 0)
        self.engine = RemoteEngine(
            one.method,
            self.networks,
            one.plan,
            SHAPE,
            one.client_sizes,
            make_wire(),
            server_gradient=one.server_gradient,
            on_nonfinite=one.on_nonfinite,
            batch_sizes=dict.fromkeys(one.plan.client_ids, 6),
            timeout_s=timeout_s,
        )
        self.events = []
        self.sessions = Sessions(
            roster,
            self.engine.answer,
            lambda name, header: {},
            lambda name, event: self.events.append((name, event)),
            poll_s=WAIT_S,
        )
        self.engine.sessions = self.sessions
        self.engine.server.train()
        self.sites = {name: Site(self, name) for name in roster}

    def __enter__(self):
        for site in self.sites.values():
            site.thread.start()
        self.wait(self.roster)
        return self

    def __exit__(self, *_):
        self.sessions.close("the run has ended")
        for site in self.sites.values():
            site.thread.join(10)

    def wait(self, names):
        assert self.sessions.wait_for(lambda: set(names) <= set(self.sessions.present()), 20)

    def state(self):
        """All tensors by the names that they have in a whole checkpoint, moments among them."""
        found = {f"parties.{n}": t for n, t in self.engine.parties.state_dict().items()}
        found |= name_moments({"server": self.engine.server.get_optimizer_state()})
        for site in self.sites.values():
            half = site.half.get_state()
            found |= half["state_dict"] | name_moments(half["optimizers"])
        return found


def name_moments(state, start="moments"):
    if isinstance(state, torch.Tensor):
        return {start: state}
    return {n: t for key in state for n, t in name_moments(state[key], f"{start}.{key}").items()}


def whole_state(module):
    found = {f"parties.{n}": t for n, t in module.parties.state_dict().items()}
    return found | name_moments(module.engine.get_state()["optimizers"])


def assert_bit_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def gan(clients, **options):
    cuts = {c: PROFILES[c] for c in range(clients)}
    module = make_gan(cuts, depth=5, engine="serial", mismatched_weight=1.0, **options)
    module.engine.server.train()
    return module


@pytest.mark.parametrize("moments", ["keep", "average", "reset"])
@pytest.mark.parametrize(
    ("roster", "norm"),
    [
        ({"a": (0,), "b": (1,)}, "batch"),
        ({"a": (0, 2), "b": (1, 3)}, "batch"),
        ({"a": (0,), "b": (1,), "c": (2,), "d": (3,)}, "group"),
    ],
    ids=["two", "two_of_two", "four"],
)
def test_two_rounds_equal_those_of_one_process(roster, norm, moments):
    clients = sum(map(len, roster.values()))
    module = gan(clients, norm=norm)
    half = clients // 2
    mixtures = [
        Mixture(dict.fromkeys(range(clients), 0), dict.fromkeys(range(clients), 1 / clients)),
        Mixture(
            {c: int(c >= half) for c in range(clients)},
            {c: [0.25, 0.75][c % 2] if clients == 4 else 1.0 for c in range(clients)},
            moments=moments,
        ),
    ]
    with Server(gan(clients, norm=norm), roster) as server:
        for round_number, mixture in enumerate(mixtures):
            for step in (2 * round_number, 2 * round_number + 1):
                one = module.engine.run_step(make_batch(range(clients), seed=step), step)
                other = server.engine.run_step(range(clients), step)
                assert one.losses == other.losses
                assert_bit_equal(whole_state(module), server.state())
            assert module.engine.observe().diverged == server.engine.observe().diverged
            module.engine.mix(mixture)
            server.engine.mix(mixture)
            assert_bit_equal(whole_state(module), server.state())
        one, other = (e.wire.traffic.state_dict() for e in (module.engine, server.engine))
        kept = {"blocks"} if moments == "average" else set()
        assert [r for r in one["num_bytes"] if r[1] not in kept] == [
            r for r in other["num_bytes"] if r[1] not in kept
        ]
    assert all(site.reason == "the run has ended" for site in server.sites.values())
    assert not server.sessions.refused


def test_rates_that_fall_are_those_of_one_process():
    options = {"rate_schedule": RateSchedule(fall_until=3, warmup_steps=1)}
    module = gan(2, **options)
    with Server(gan(2, **options), {"a": (0,), "b": (1,)}) as server:
        for step in range(4):
            module.engine.run_step(make_batch(range(2), seed=step), step)
            server.engine.run_step(range(2), step)
            assert_bit_equal(whole_state(module), server.state())


@pytest.mark.parametrize(
    "options",
    [
        {"bits": {"activations": 8, "gradients": 6, "blocks": 8}},
        {"clip": {"activations": 0.5}, "noise": dict.fromkeys(DEFENDED, 0.2)},
        {"bits": {"activations": "bf16", "gradients": "bf16", "blocks": 16}},
    ],
    ids=["bits", "noise", "bf16"],
)
@pytest.mark.parametrize("moments", ["keep", "average"])
def test_a_wire_that_changes_what_crosses_changes_it_as_in_one_process(options, moments):
    wires = [DefendedWire(**options) for _ in range(2)]
    modules = [gan(2, wire=wire) for wire in wires]
    mixture = Mixture({0: 0, 1: 0}, {0: 0.25, 1: 0.75}, moments=moments)
    with Server(modules[1], {"a": (0,), "b": (1,)}, make_wire=lambda: DefendedWire(**options)) as s:
        for step in range(3):
            one = modules[0].engine.run_step(make_batch(range(2), seed=step), step)
            assert s.engine.run_step(range(2), step).losses == one.losses
            assert_bit_equal(whole_state(modules[0]), s.state())
            modules[0].engine.mix(mixture)
            s.engine.mix(mixture)
            assert_bit_equal(whole_state(modules[0]), s.state())
        engines = (modules[0].engine, s.engine)
        moved = new_plan(modules[0].engine.plan, {0: [2, 2, 2, 2], 1: [1, 1, 1, 1]})
        for engine in engines:
            engine.apply_plan(moved)
        assert_bit_equal(whole_state(modules[0]), s.state())
        traffic = [e.wire.traffic.state_dict()["num_bytes"] for e in engines]
        up = [{tuple(r[:-1]): r[-1] for r in t if r[3] == "uplink"} for t in traffic]
        assert moments == "average" or up[0] == up[1]
        # What crosses is what is counted, but for headers.
        if "bits" in options:
            real = sum(s.sessions.num_bytes.values())
            plain = sum(t.nbytes for t in modules[0].state_dict().values())
            assert s.engine.wire.traffic.total() < real and plain > 0
    # A site that goes on draws the noise that it would have drawn.
    half = s.sites["a"].half.get_state()
    own = {tuple(r[:-1]): r[-1] for r in half["wires"]["0"]["num_bytes"]}
    assert own == {key: size for key, size in up[1].items() if key[0] == 0}


def test_rounded_numbers_without_their_range_are_refused():
    wire, specs = DefendedWire(bits={"gradients": 4}), {"x": TensorSpec(torch.float32, (2, 3, 5))}
    carried = {"x": torch.zeros(2, 8, dtype=torch.uint8)}
    with pytest.raises(FrameError, match="tensor x has no range"):
        open_frame(Frame(pack({}, carried)), wire, "gradients", specs, optional=True)
    carried["x@scale"] = torch.zeros(2, 2)
    found = open_frame(Frame(pack({}, carried)), wire, "gradients", specs, optional=True)
    assert torch.equal(found["x"], torch.zeros(2, 3, 5))


def new_plan(plan, cuts):
    """The plan with other cuts of some clients."""
    new = {c: ClientCuts.from_list(own, plan.networks) for c, own in cuts.items()}
    entries = [ClientPlan(e.client_id, new.get(e.client_id, e.cuts)) for e in plan.clients]
    return CutPlan(plan.blocks, tuple(entries))


@pytest.mark.parametrize("per_cluster", [True, False, {"discriminator": [2]}], ids=str)
@pytest.mark.parametrize(
    "cuts",
    [
        {0: [2, 2, 2, 2], 1: [1, 1, 1, 1]},  # both ways
        {c: [1, 1, 1, 1] for c in range(4)},  # blocks that the server lacked
        {c: [3, 1, 3, 1] for c in range(4)},  # blocks that it keeps no longer
    ],
    ids=["both", "up", "down"],
)
def test_blocks_move_as_in_one_process_with_moments_and_averages(cuts, per_cluster):
    roster = {"a": (0, 2), "b": (1, 3)}
    start = {c: [2, 2, 2, 2] for c in range(4)} if len(cuts) == 4 else PROFILES
    options = {"depth": 5, "engine": "serial", "ema_decay": 0.5}
    module, other = (make_gan(start, **options) for _ in range(2))
    for each in (module, other):
        each.engine.server.train()
    mixture = Mixture({0: 0, 1: 0, 2: 1, 3: 1}, dict.fromkeys(range(4), 0.5), per_cluster)
    with Server(other, roster) as server:
        for engine in (module.engine, server.engine):
            batches = make_batch(range(4)) if engine is module.engine else range(4)
            engine.run_step(batches, 0)
            engine.mix(mixture)
        plan = new_plan(module.engine.plan, cuts)
        moves = module.engine.apply_plan(plan)
        assert server.engine.apply_plan(plan) == moves and moves
        assert server.engine.plan == plan
        assert_bit_equal(whole_state(module), server.state())
        traffic = [e.wire.traffic.state_dict() for e in (module.engine, server.engine)]
        assert traffic[0] == traffic[1]
        for step in (1, 2):
            module.engine.run_step(make_batch(range(4), seed=step), step)
            server.engine.run_step(range(4), step)
        module.engine.mix(mixture)
        server.engine.mix(mixture)
        assert_bit_equal(whole_state(module), server.state())
    assert not server.sessions.refused


def test_who_is_away_keeps_its_cuts_and_who_is_lost_in_a_move_gets_its_blocks_later():
    roster, start = {"a": (0,), "b": (1,)}, {0: [2, 2, 2, 2], 1: [1, 1, 1, 1]}
    modules = [make_gan(start, depth=5, engine="serial") for _ in range(2)]
    with Server(modules[0], roster, timeout_s=1.0) as server:
        modules[1].engine.server.train()
        server.engine.run_step([0, 1], 0)
        modules[1].engine.run_step(make_batch(range(2)), 0)
        site = server.sites["b"]
        saved = copy.deepcopy(site.half.get_state())
        server.sessions.disconnect("b")
        away = new_plan(server.plan, {0: [1, 1, 1, 1], 1: [2, 1, 2, 1]})
        server.engine.apply_plan(away)
        assert server.engine.plan == new_plan(server.plan, {0: [1, 1, 1, 1]})
        assert site.half.plan.by_client[1] == server.plan.by_client[1]
        assert not server.engine.blocks.owed
        # It comes back, and is killed when it is told of a move.
        server.sessions.connect("b")
        plan = new_plan(server.plan, {0: [1, 1, 1, 1], 1: [2, 1, 2, 1]})

        def die(*_):
            raise Dismissed("killed")

        site.half.move = die
        server.engine.apply_plan(plan)
        site.thread.join(10)
        assert server.engine.plan == plan
        assert {ref.client_id for ref in server.engine.blocks.owed} == {1}
        # Its half is of before; a new process of it gets what it has missed.
        back = Site(server, "b")
        back.caller.join(JOINING)
        half = SiteHalf(
            *(server.method, server.networks, CutPlan(plan.blocks, plan.clients[1:]), SHAPE),
            *({1: 0}, {1: 6}),
        )
        half.set_state(saved, back.caller.ask)
        assert half.plan.by_client[1] == plan.by_client[1]
        modules[1].engine.apply_plan(away)
        modules[1].engine.apply_plan(plan)
        own = whole_state(modules[1])
        now = half.get_state()
        found = now["state_dict"] | name_moments(now["optimizers"])
        assert len(found) > len(saved["state_dict"])
        assert [n for n in found if not torch.equal(found[n], own[n])] == []
        server.engine.blocks.forget_owed([0])
        assert server.engine.blocks.owed
        server.engine.blocks.forget_owed([1])
        with pytest.raises(HuscfError, match="nothing of block"):
            SiteHalf(
                *(server.method, server.networks, CutPlan(plan.blocks, plan.clients[1:]), SHAPE),
                *({1: 0}, {1: 6}),
            ).set_state(saved, back.caller.ask)


@pytest.mark.parametrize(
    ("cuts", "reason"),
    [
        ([[0, [1, 1, 1, 1]]], "moves blocks of client 0"),
        ([[1, [1, 1]]], "cuts are four whole numbers"),
        ([[1, [0, 1, 1, 1]]], "generator_head is 0, must be at least 1"),
        ([7], "malformed cuts"),
    ],
)
def test_a_site_refuses_cuts_that_are_none_of_its_business(cuts, reason):
    server = Server(gan(2), {"a": (0,), "b": (1,)})
    half = server.sites["b"].half
    before = half.get_state()["cuts"]
    with pytest.raises(HuscfError, match=reason):
        half.move(cuts, server.sites["b"].caller.ask)
    assert half.get_state()["cuts"] == before


def spectral_gan(clients):
    """Estimates of spectral norms depend on who comes first: the server takes clients in turn."""

    def discriminator(shape):
        network = ConditionalDiscriminator(shape, width=4, depth=5, norm="none")
        for index in (1, 2, 3):
            layers = network[index]
            for name, layer in list(layers.named_modules()):
                if isinstance(layer, torch.nn.Conv2d):
                    owner = layers.get_submodule(name.rpartition(".")[0])
                    owner._modules[name.rpartition(".")[2]] = spectral_norm(layer)
        return network

    return gan(clients, discriminator=discriminator)


@pytest.mark.parametrize(
    ("clients", "roster"), [(2, {"a": (1,), "b": (0,)}), (4, {"a": (0, 3), "b": (1, 2)})]
)
def test_layers_that_depend_on_the_order_of_clients_run_in_that_order(clients, roster):
    module = spectral_gan(clients)
    with Server(spectral_gan(clients), roster) as server:
        for step in range(3):
            module.engine.run_step(make_batch(range(clients), seed=step), step)
            server.engine.run_step(range(clients), step)
            assert server.engine._step.in_turn
        assert_bit_equal(whole_state(module), server.state())


def test_who_is_silent_is_dropped_at_the_deadline_and_returns_with_the_next_step():
    """In each phase; the server has nothing of what it gave, and the others go on."""
    roster = {"a": (0,), "b": (1,)}
    for number, where in enumerate(
        [("forward", "fakes"), ("backward", "real"), ("finish", 0), ("forward", "fooled")]
    ):
        silence = threading.Event()
        module = gan(2)
        with Server(gan(2), roster, timeout_s=0.5) as server:
            late = server.sites["b"]

            def hold(data, where=where, silence=silence):
                header = Frame(data).header
                passes = [name for _, name in header.get("runs", [])]
                if header["kind"] == where[0] and where[1] in (*passes, header.get("phase")):
                    silence.wait(20)

            late.on_frame = hold
            result = server.engine.run_step([0, 1], 0)
            assert result.dropped == (1,) and server.engine.num_dropped == {0: 0, 1: 1}
            assert server.sessions.present() == ["a"]
            if where[1] != "fooled":
                # Nothing of client 1 has entered: the server is as if it had not been there.
                module.engine.run_step(make_batch([0]), 0)
                ours = server.engine.server.state_dict()
                for name, tensor in module.engine.server.state_dict().items():
                    assert torch.equal(ours[name], tensor), (where, name)
            late.on_frame = lambda data: None
            silence.set()
            server.wait(roster)
            result = server.engine.run_step([0, 1], 1)
            assert result.dropped == () and number >= 0
            assert all(map(torch.isfinite, map(torch.tensor, result.losses.values())))


@pytest.mark.parametrize(
    ("clients", "limit", "counts"),
    [
        (2, 16 << 20, {"forward": 3, "backward": 3}),
        (4, 16 << 20, {"forward": 3, "backward": 3}),  # as many with two clients at each site
        (4, 0, {"forward": 10, "backward": 10}),  # as many as there are passes
    ],
)
@pytest.mark.parametrize(
    "make_wire",
    [MemoryWire, lambda: DefendedWire(bits={"activations": 8}, noise={"gradients": 0.1})],
    ids=["plain", "changed"],
)
def test_passes_that_need_nothing_of_each_other_go_in_one_frame(
    monkeypatch, clients, limit, counts, make_wire
):
    monkeypatch.setattr(parts, "MAX_TOGETHER", limit)
    module, recorded = gan(clients, wire=make_wire()), []
    roster = {"a": tuple(range(0, clients, 2)), "b": tuple(range(1, clients, 2))}
    with Server(gan(clients, wire=make_wire()), roster, make_wire=make_wire) as server:
        server.sites["b"].on_frame = recorded.append
        for step in range(2):
            module.engine.run_step(make_batch(range(clients), seed=step), step)
            server.engine.run_step(range(clients), step)
        assert_bit_equal(whole_state(module), server.state())
    kinds = Counter(Frame(data).header["kind"] for data in recorded)
    assert kinds.pop("ready") >= 2
    assert kinds == {kind: 2 * count for kind, count in {**counts, "finish": 2}.items()}


@pytest.mark.parametrize("limit", [16 << 20, 0])
def test_a_sites_blocks_of_a_round_go_in_one_frame_each_way(monkeypatch, limit):
    monkeypatch.setattr(parts, "MAX_TOGETHER", limit)
    module, recorded = gan(4), []
    mixture = Mixture({0: 0, 1: 0, 2: 1, 3: 1}, dict.fromkeys(range(4), 0.5), moments="average")
    with Server(gan(4), {"a": (0, 2), "b": (1, 3)}) as server:
        module.engine.run_step(make_batch(range(4)), 0)
        server.engine.run_step(range(4), 0)
        server.sites["b"].on_frame = recorded.append
        module.engine.mix(mixture)
        server.engine.mix(mixture)
        assert_bit_equal(whole_state(module), server.state())
    headers = [Frame(data).header for data in recorded]
    for kind in ("block", "fetch"):
        refs = [header["refs"] for header in headers if header["kind"] == kind]
        assert len(refs) == (1 if limit else sum(map(len, refs)))
        assert {client_id for own in refs for client_id, *_ in own} == {1, 3}
        assert sum(map(len, refs)) > 8


@pytest.mark.parametrize("where", ["activations", "loss"])
def test_of_several_clients_of_a_site_one_is_dropped_and_the_others_go_on(where):
    modules = [gan(4, on_nonfinite="drop") for _ in range(2)]
    with Server(modules[1], {"a": (0, 2), "b": (1, 3)}) as server:
        broken = [modules[0].client(1), server.sites["b"].half.clients[1]]
        for client in broken:
            end = "head" if where == "activations" else "tail"
            with torch.no_grad():
                next(client.trained.segment("discriminator", end).parameters()).fill_(torch.nan)
        one = modules[0].engine.run_step(make_batch(range(4)), 0)
        other = server.engine.run_step(range(4), 0)
        assert one.dropped == other.dropped == (1,) and one.losses == other.losses
        mine, theirs = whole_state(modules[0]), server.state()
        assert mine.keys() == theirs.keys()
        assert [n for n, t in mine.items() if not torch.equal(t, theirs[n])] == [
            n for n, t in mine.items() if t.isnan().any()
        ]
    assert not server.sessions.refused


@pytest.mark.parametrize("on_nonfinite", ["drop", "stop"])
def test_what_is_not_finite_is_dropped_or_stops_the_run(on_nonfinite):
    with Server(gan(2, on_nonfinite=on_nonfinite), {"a": (0,), "b": (1,)}) as server:
        half = server.sites["b"].half.clients[1]
        with torch.no_grad():
            next(half.trained.segment("discriminator", "head").parameters()).fill_(torch.nan)
        if on_nonfinite == "stop":
            with pytest.raises(NonFiniteError, match="client 1: activations at discriminator_head"):
                server.engine.run_step([0, 1], 0)
            return
        result = server.engine.run_step([0, 1], 0)
        assert result.dropped == (1,)
        # A step does not wait for who was dropped; a round asks those that are there.
        assert server.sessions.wait_for(lambda: "b" in server.sessions.present(), 30)
        assert server.engine.observe().diverged == {1}
        before = {c: t.clone() for c, t in half.state_dict().items()}
        server.engine.mix(Mixture({0: 0, 1: 0}, {0: 1.0, 1: 0.0}, moments="keep"))
        # Who has diverged gets the others' blocks and forgets its moments.
        assert half.is_finite() and not all(
            torch.equal(before[n], t) for n, t in half.state_dict().items()
        )
        assert not any(state for o in half.optimizers.values() for state in o.state.values())


def test_a_server_that_is_stopped_in_a_step_keeps_no_site_waiting(monkeypatch):
    roster = {"a": (0,), "b": (1,)}

    def interrupt(step, timeout_s):
        with step.changed:
            assert step.changed.wait_for(lambda: len(step._losses) == 2, timeout_s)
        raise KeyboardInterrupt

    monkeypatch.setattr(RemoteStep, "end_phase", interrupt)
    with Server(gan(2), roster) as server:
        server.sessions.poll_s = 60.0
        with pytest.raises(KeyboardInterrupt):
            server.engine.run_step([0, 1], 0)
        server.sessions.close("the server has stopped")
        for site in server.sites.values():
            site.thread.join(10)
            assert not site.thread.is_alive()
            assert "the server has stopped" in site.reason


def test_a_round_goes_on_without_a_site_and_waits_for_a_whole_cluster():
    with Server(gan(2), {"a": (0,), "b": (1,)}, timeout_s=1.0) as server:
        server.engine.run_step([0, 1], 0)
        server.sessions.disconnect("b")
        away = {n: t.clone() for n, t in server.sites["b"].half.get_state()["state_dict"].items()}
        own = {n: t.clone() for n, t in server.sites["a"].half.get_state()["state_dict"].items()}
        server.engine.mix(Mixture({0: 0, 1: 1}, {0: 1.0, 1: 1.0}))
        assert server.engine.clusters == {0: 0, 1: 0}  # nobody of cluster 1 is there
        server.engine.mix(Mixture({0: 0, 1: 0}, {0: 0.5, 1: 0.5}))
        assert_bit_equal(away, server.sites["b"].half.get_state()["state_dict"])
        assert_bit_equal(own, server.sites["a"].half.get_state()["state_dict"])


def test_a_command_that_a_new_process_leaves_unanswered_is_not_waited_for():
    sessions = Sessions({"a": (0,)}, lambda name, frame: ({}, {}), lambda name, header: {})
    sessions.poll_s = 60.0

    def send(key, seq, kind, **fields):
        header = {"kind": kind, "seq": seq, "session": key * 32, **fields}
        return Frame(sessions.handle("a", pack(header))).header

    def wait_for_commands(key):
        send(key, 0, "join", protocol=1, **JOINING)
        given.append(send(key, 1, "ready", answers=0, answer=None))

    given, found = [], []
    first, second = (threading.Thread(target=wait_for_commands, args=(k,)) for k in "fe")
    first.start()
    assert sessions.wait_for(lambda: sessions.present() == ["a"], 20)
    numbers = sessions.post({"a": {"kind": "measure"}})
    first.join(20)
    assert given[0]["kind"] == "measure"
    asking = threading.Thread(target=lambda: found.append(sessions.collect(numbers, 600.0)))
    asking.start()
    asking.join(WAIT_S)
    assert not found  # its first process may still answer
    second.start()
    asking.join(20)
    assert found == [{}] and sessions.present() == ["a"]
    sessions.close("over")
    second.join(20)


#: Commands of a server, and why a site does not follow them.
WRONG_COMMANDS = [
    ({"kind": "dance"}, "answered 'ready' by 'dance'"),
    ({"kind": "save"}, "'step' is missing"),
    ({"kind": "save", "step": "1"}, "step is no natural number"),
    ({"kind": "give", "blocks": [[0, "trained"]], "moments": False, "as": "blocks"}, "no list of"),
    *(
        ({"kind": "give", "blocks": [block], "moments": False, "as": "blocks"}, "does not hold")
        for block in (
            [0, "trained", "generator", 99],
            [0, "trained", "other", 0],
            [0, "average", "discriminator", 0],
            [0, "segments", "generator", 0],
            [1, "trained", "generator", 0],
        )
    ),
    ({"kind": "take", "blocks": [[9, "trained", "generator", 0]], "forget": []}, "does not hold"),
    ({"kind": "give", "blocks": [], "moments": True, "as": "statistics"}, "blocks or moved_blocks"),
    ({"kind": "close", "round": -1}, "round is no natural number"),
    ({"kind": "evaluate", "num_per_class": 10**9, "full": True}, "from 1 to 100000"),
    ({"kind": "move", "cuts": [[0, "1111"]]}, "natural number, list of natural number"),
    ({"kind": "sum_shares", "groups": [[[0, "key"]]]}, "no list of list of"),
    ({"kind": "sum_shares", "groups": [[[-1, b"key"]]]}, "no list of list of"),
]


@pytest.mark.parametrize(("command", "reason"), WRONG_COMMANDS)
def test_a_site_leaves_a_server_whose_commands_do_not_fit_by_a_line(command, reason):
    server, raised = Server(gan(2), {"a": (0,), "b": (1,)}), []
    site = server.sites["a"]

    def run():
        with pytest.raises(HuscfError, match=reason):
            site.run()
        raised.append(reason)

    site.thread = threading.Thread(target=run, daemon=True)
    with server:
        assert server.sessions.call({"a": command}, 0.5) == {}
        site.thread.join(20)
        assert raised == [reason]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (["blocks", "blocks"], "a block twice between two steps"),
        (["moved_blocks"], "the run keeps its cuts"),
    ],
)
def test_blocks_leave_a_site_once_and_as_they_are_only_to_move(asked, reason):
    server = Server(gan(1), {"a": (0,)})
    half = server.sites["a"].half
    half.may_move = len(asked) > 1
    place = {"blocks": [[0, "trained", "generator", 0]], "moments": False}
    with pytest.raises(HuscfError, match=reason):
        for kind in asked:
            half.give({**place, "as": kind}, lambda *_: None)


def test_a_step_is_run_once_in_a_session_and_rounds_go_on():
    half = Server(gan(1), {"a": (0,)}).sites["a"].half
    half._last_step = 4
    command = {"step": 4, "round": 0, "clients": [0], "observe": [], "in_turn": False}
    with pytest.raises(HuscfError, match="asks for step 4, and step 4 was run"):
        half.run_step(command, {}, None)


def test_blocks_that_are_not_finite_or_have_half_their_moments_are_refused(lying):
    server, liar = lying
    ref = BlockRef(1, "trained", "generator", 0)
    server.engine.blocks._wanted = {ref: True}
    state = read_block(server.networks["generator"][0])

    def send(**more):
        tensors = {f"0.{name}": tensor for name, tensor in {**state, **more}.items()}
        return liar.send("block", tensors, refs=[list(ref)])

    weight = state["embedding.weight"]
    half = {"moment.exp_avg.embedding.weight": weight}
    assert "moments of embedding.weight are not whole" in send(**half)["reason"]
    bad = {"embedding.weight": weight * math.nan}
    assert "block 0 of client 1 is NaN or Inf" in send(**bad)["reason"]
    server.engine.diverged = frozenset({1})
    assert send(**bad)["kind"] == "ok"
    server.engine.blocks._wanted = {}


def test_a_site_says_of_its_own_clients_alone_that_they_have_diverged():
    with Server(gan(2), {"a": (0,), "b": (1,)}) as server:
        server.engine.run_step([0, 1], 0)
        server.sites["b"].half.close = lambda command, ask: {"diverged": [0, 1]}
        assert server.engine.observe().diverged == {1}


class Liar:
    """Sends what it likes under a site's name, in a session of its own."""

    def __init__(self, server, name):
        self.server, self.name, self.seq, self.session = server, name, 0, "f" * 32

    def send(self, kind, tensors=None, **fields):
        header = {"kind": kind, "seq": self.seq + 1, "session": self.session, **fields}
        answer = Frame(self.server.sessions.handle(self.name, pack(header, tensors)))
        if answer.header["kind"] != "refused":
            self.seq += 1
        return answer.header

    def join(self):
        self.seq = -1
        return self.send("join", protocol=1, **JOINING)


@pytest.fixture
def lying():
    """A server in the first phase of a step whose client 1 is a liar."""
    server = Server(gan(2), {"a": (0,), "b": (1,)}, timeout_s=20.0)
    server.sites["a"].thread.start()
    liar = Liar(server, "b")
    assert liar.join()["kind"] == "welcome"
    waiting = threading.Thread(
        target=liar.send, args=("ready",), kwargs={"answers": 0, "answer": None}
    )
    waiting.start()
    server.wait(server.roster)
    running = threading.Thread(target=server.engine.run_step, args=([0, 1], 0), daemon=True)
    running.start()
    waiting.join(10)
    yield server, liar
    server.engine.timeout_s = 0.5
    server.engine._step.drop(1)
    running.join(20)
    assert server.engine._step.dropped == [1] and len(server.engine._step.results) == 2
    server.sessions.close("over")
    server.sites["a"].thread.join(10)


def right_frame(server):
    specs = server.engine.crossings[1].up("generator", 6)
    return {f"0.{n}": torch.zeros(s.shape, dtype=s.dtype) for n, s in specs.items()}


def test_frames_that_do_not_fit_are_refused_and_counted_and_the_run_goes_on(lying):
    server, liar = lying
    place = {"step": 0, "phase": 0, "runs": [[1, "fakes"]]}
    right = right_frame(server)
    (name,) = [n for n, t in right.items() if t.is_floating_point()][:1]
    refused = [
        ("forward", {**right, name: right[name][:3]}, place, "expected"),
        ("forward", {**right, name: right[name].double()}, place, "float64"),
        ("forward", {}, place, "is missing"),
        ("forward", right, {**place, "runs": [[1, "fakes"], [0, "real"]]}, "client 0 is not a"),
        ("forward", right, {**place, "runs": [[1, "fooled"]]}, "no pass 'fooled'"),
        ("forward", right, {**place, "runs": [[1, "fakes"], [1, "real"]]}, "1.x is missing"),
        ("forward", right, {**place, "runs": [[1, "fakes"], [1, "fakes"]]}, "or one twice"),
        ("forward", right, {**place, "runs": []}, "no run is named"),
        ("forward", right, {**place, "phase": 1}, "phase 1 is not running"),
        ("forward", right, {**place, "runs": [["1", "fakes"]]}, "list of [natural number, str]"),
        ("forward", right, {**place, "runs": "1"}, "runs is no list of"),
        ("forward", right, {**place, "more": 1}, "'more' is missing or not known"),
        ("backward", {}, {**place, "runs": [[1, "real"]]}, "has not run"),
        ("fetch", {}, {"refs": [[0, "trained", "generator", 0]]}, "client 0 is not a client of b"),
        ("fetch", {}, {"refs": [[1, "trained", "x"]]}, "refs is no list of [natural number, str"),
        ("fetch", {}, {"refs": []}, "no block is named"),
        ("block", {}, {"refs": [[1, "trained", "x", 0]] * 2}, "or one twice"),
        ("finish", {}, {"step": 0, "phase": 0, "losses": [[0, 0.0]], "failed": []}, "not a client"),
        ("finish", {}, {"step": 0, "phase": 2, "losses": [], "failed": []}, "has not begun"),
        (
            "finish",
            {},
            {"step": 0, "phase": 0, "losses": [[1, "0"]], "failed": []},
            "[natural number, float]",
        ),
        ("finish", {}, {"step": 0, "phase": 0, "losses": [[1, math.nan]], "failed": []}, "NaN"),
        (
            "records",
            {},
            {"step": 0, "counts": [[1, 6.0]]},
            "counts is no list of [natural number, int]",
        ),
        ("records", {}, {"step": 0, "counts": [7]}, "counts is no list of [natural number, int]"),
        ("anything", {}, {}, "no request is of kind"),
    ]
    for number, (kind, tensors, fields, reason) in enumerate(refused, 1):
        answer = liar.send(kind, tensors, **fields)
        assert answer["kind"] == "refused" and reason in answer["reason"], (kind, answer)
        assert server.sessions.refused["b"] == number
    assert liar.send("forward", right, **place)["kind"] == "ok"
    assert liar.send("forward", right, **place)["kind"] == "refused"  # once is enough
    # Nobody has asked for blocks, or has some: it may be late.
    blocks = {"refs": [[1, "trained", "x", 0]]}
    assert [liar.send(kind, **blocks)["kind"] for kind in ("block", "fetch")] == ["dropped"] * 2
    server.engine.blocks._wanted = {BlockRef(1, "trained", "generator", 0): False}
    assert liar.send("block", **blocks)["kind"] == "dropped"  # others' are wanted
    server.engine.blocks._new = {BlockRef(1, "trained", "generator", 0): {}}
    assert "nothing of block 0 for client 1" in liar.send("fetch", **blocks)["reason"]
    server.engine.blocks._wanted, server.engine.blocks._new = {}, {}


@pytest.mark.parametrize("kind", ["block", "fetch"])
def test_a_site_that_is_late_at_a_round_s_end_takes_part_in_what_follows(kind):
    silence, seen = threading.Event(), []
    with Server(gan(2), {"a": (0,), "b": (1,)}, timeout_s=0.5) as server:

        def hold(data):
            if Frame(data).header["kind"] == kind and not seen:
                seen.append(kind)
                silence.wait(20)

        server.engine.run_step([0, 1], 0)
        server.sites["b"].on_frame = hold
        mixture = Mixture({0: 0, 1: 0}, {0: 0.5, 1: 0.5})
        server.engine.mix(mixture)
        silence.set()
        server.wait(server.roster)
        assert seen == [kind]
        server.engine.timeout_s = 20.0
        assert server.engine.run_step([0, 1], 1).dropped == ()
        server.engine.mix(mixture)
        assert server.engine.run_step([0, 1], 2).dropped == ()
        assert server.sessions.refused["b"] == 0


def test_a_frame_that_is_repeated_has_the_same_answer_and_others_are_out_of_order(lying):
    server, liar = lying
    place = {"step": 0, "phase": 0, "runs": [[1, "fakes"]]}
    right = right_frame(server)
    header = {"kind": "forward", "seq": liar.seq + 1, "session": liar.session, **place}
    data = pack(header, right)
    traffic = server.engine.wire.traffic.total(client_id=1)
    first = server.sessions.handle("b", data)
    count = server.engine.wire.traffic.total(client_id=1)
    assert count > traffic
    assert server.sessions.handle("b", data) == first
    assert server.engine.wire.traffic.total(client_id=1) == count
    for seq in (header["seq"] - 1, header["seq"] + 2):
        answer = Frame(server.sessions.handle("b", pack({**header, "seq": seq}, right))).header
        assert answer["kind"] == "refused" and "is next" in answer["reason"]
    other = pack({**header, "seq": header["seq"] + 1, "session": "0" * 32}, right)
    assert Frame(server.sessions.handle("b", other)).header["kind"] == "displaced"
    assert Frame(server.sessions.handle("c", data)).header["kind"] == "refused"


def test_a_probe_gets_as_many_bytes_as_it_asks_for_and_no_more_than_there_may_be(lying):
    server, liar = lying
    caller = Caller(lambda data: server.sessions.handle("b", data))
    before = server.sessions.num_bytes["b", "up"], server.sessions.num_bytes["b", "down"]
    assert 0 < caller.probe(4096, 1 << 20) < 10
    sent = [
        server.sessions.num_bytes["b", w] - n for w, n in zip(("up", "down"), before, strict=True)
    ]
    assert 4096 < sent[0] < 4296 and 1 << 20 < sent[1] < (1 << 20) + 200
    for size in (-1, (4 << 20) + 1):
        with pytest.raises(HuscfError, match=r"refused 'probe': probe: -?\d+ bytes"):
            caller.probe(0, size)
    place = {"step": 0, "phase": 0, "runs": [[1, "fakes"]]}
    assert liar.send("forward", right_frame(server), **place)["kind"] == "ok"


def test_a_flood_of_broken_frames_stops_nobody(lying):
    server, _ = lying
    for data in broken_frames(2_000):
        kind = Frame(server.sessions.handle("b", data)).header["kind"]
        assert kind in ("refused", "displaced")
    assert server.sessions.refused["b"] > 1_900


def test_the_newest_process_of_a_site_displaces_the_one_before():
    with Server(gan(2), {"a": (0,), "b": (1,)}) as server:
        site = server.sites["b"]
        liar = Liar(server, "b")
        assert liar.join()["kind"] == "welcome"
        site.thread.join(10)
        assert site.reason == "another process has joined under this site's name; this one ends"
        assert server.sessions.present() == ["a"]
        # Nor does it come back as it was, while the newer one is there.
        keys = {"old": site.caller._session, "new": liar.session, "newest": "e" * 32}
        found = {
            (age, kind): server.sessions.tell_process("b", pack({"kind": kind, "session": key}))
            for age, key in keys.items()
            for kind in ("join", "ready")
        }
        assert found == {
            **dict.fromkeys([("old", "join"), ("old", "ready"), ("newest", "ready")]),
            **dict.fromkeys([("new", "join"), ("new", "ready")], "present"),
            ("newest", "join"): "new",
        }
        assert server.sessions.tell_process("b", b"nothing") is None


def test_a_server_that_was_started_anew_asks_to_join_again():
    server = Server(gan(2), {"a": (0,), "b": (1,)})
    with pytest.raises(Rejoin):
        server.sites["a"].caller.ask("ready", {"answers": 0, "answer": None})


def test_only_activations_and_gradients_cross_in_a_step():
    """The recorded wire has no sample, label, noise or fake of any client."""
    recorded = []
    with Server(gan(2), {"a": (0,), "b": (1,)}) as server:
        for site in server.sites.values():
            site.on_frame = recorded.append
        server.engine.run_step([0, 1], 0)
        module = gan(2)
        private = [t for own in load(module, make_batch(range(2))).values() for t in own.values()]
        for client in range(2):
            given = module.client(client).private
            with torch.no_grad():
                network = gan(2).engine.whole_network("generator", client)
                private.append(network(given["noise"], given["labels"]))
    kinds = [Frame(data).header["kind"] for data in recorded]
    assert set(kinds) == {"ready", "forward", "backward", "finish"}
    for data in recorded:
        assert not any(secret.contiguous().numpy().tobytes() in data for secret in private)
    # The search finds what leaks, in any layout of the samples.
    leak = pack({}, {"x": private[0]})
    assert private[0].contiguous().numpy().tobytes() in leak
