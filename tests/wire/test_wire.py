"""The wire: what crosses, what it counts, and what it refuses."""

import pytest
import torch

from huscf.errors import HuscfError
from huscf.wire import SERVER, MemoryWire, Message, TrafficKey
from tests.conftest import ENGINES, make_batch, make_gan, run_step


def message(sender, receiver, tensor, kind="activations", topic="generator_head"):
    return Message(sender, receiver, kind, topic, {"x": tensor})


def test_messages_arrive_in_order_between_each_pair_of_parties():
    wire = MemoryWire()
    for sender, value in ((0, 1.0), (4, 2.0), (0, 3.0)):
        wire.send(message(sender, SERVER, torch.tensor([value])))
    got = [wire.receive(SERVER, sender).tensors["x"].item() for sender in (4, 0, 0)]
    assert got == [2.0, 1.0, 3.0]
    with pytest.raises(HuscfError, match="server waits for a message of 0 that was never sent"):
        wire.receive(SERVER, 0)


def test_bytes_are_counted_per_client_kind_place_and_direction():
    wire = MemoryWire()
    for client in (0, 3):
        wire.pass_on(message(client, SERVER, torch.zeros(2, 3)))
    wire.pass_on(message(SERVER, 0, torch.zeros(2, 3).half(), "gradients"))
    wire.pass_on(message(SERVER, 1, torch.zeros(5).double(), "blocks", "discriminator"))
    wire.pass_on(
        Message(1, SERVER, "blocks", "discriminator", {"a": torch.zeros(2), "b": torch.ones(1)})
    )
    traffic = wire.traffic
    assert traffic.num_bytes == {
        TrafficKey(0, "activations", "generator_head", "uplink"): 24,
        TrafficKey(3, "activations", "generator_head", "uplink"): 24,
        TrafficKey(0, "gradients", "generator_head", "downlink"): 12,
        TrafficKey(1, "blocks", "discriminator", "downlink"): 40,
        TrafficKey(1, "blocks", "discriminator", "uplink"): 12,
    }
    assert traffic.total() == 112
    assert traffic.total(client_id=1) == 52
    assert traffic.total(direction="downlink") == 52
    assert traffic.total(kinds=["activations", "gradients"]) == 60
    assert traffic.total(0, "uplink", ["gradients"]) == 0
    other = MemoryWire().traffic
    other.load_state_dict(traffic.state_dict())
    assert other.num_bytes == traffic.num_bytes
    assert other.state_dict()["num_bytes"] == sorted(other.state_dict()["num_bytes"])


def test_kinds_that_the_method_does_not_declare_are_refused():
    wire = make_gan({0: [1, 1, 1, 1]}).wire
    for kind in ("inputs", "outputs"):
        with pytest.raises(HuscfError, match=f"{kind} of generator_head may not leave") as caught:
            wire.send(message(0, SERVER, torch.zeros(1), kind))
        assert str(caught.value).endswith(
            "cross: activations, blocks, gradients, moved_blocks, statistics"
        )
    assert wire.traffic.total() == 0


class Doubled(MemoryWire):
    def transmit(self, message):
        return {n: (1 + message.client_id) * t for n, t in message.tensors.items()}


def test_what_is_changed_on_the_way_is_what_arrives():
    wire = Doubled()
    for client in (0, 1):
        arrived = wire.pass_on(message(client, SERVER, torch.ones(3, 4)))
        assert torch.equal(arrived["x"], (1 + client) * torch.ones(3, 4))
    assert MemoryWire().is_identity and not wire.is_identity


@pytest.mark.parametrize("engine", ENGINES)
def test_compression_shows_in_the_traffic(engine):
    class Halving(MemoryWire):
        def transmit(self, message):
            return {name: t.bfloat16().float() for name, t in message.tensors.items()}

        def measure(self, message):
            return message.num_bytes // 2

    wires = MemoryWire(), Halving()
    for wire in wires:
        run_step(make_gan({0: [1, 1, 1, 1]}, wire=wire, engine=engine), make_batch([0]))
    assert wires[1].traffic.total() == wires[0].traffic.total() / 2


@pytest.mark.parametrize("engine", ENGINES)
def test_every_client_s_message_is_transmitted_apart(engine):
    class Silenced(MemoryWire):
        def transmit(self, message):
            factor = 0.0 if message.client_id == 1 else 1.0
            return {name: factor * tensor for name, tensor in message.tensors.items()}

    cuts = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}
    plain, silenced = (
        make_gan(cuts, wire=wire, engine=engine, norm="none") for wire in (None, Silenced())
    )
    for module in (plain, silenced):
        before = {k: v.clone() for k, v in module.parties.named_parameters()}
        run_step(module, make_batch(cuts))
        module.moved = {
            k for k, v in module.parties.named_parameters() if not torch.equal(v, before[k])
        }
    head = "clients.{}.trained.discriminator_head.blocks.0.layers.0.weight"
    assert {head.format(0), head.format(1)} <= plain.moved
    assert head.format(0) in silenced.moved and head.format(1) not in silenced.moved


class OneByteEach(MemoryWire):
    def measure(self, message):
        return 1


class Reported(MemoryWire):
    """Counts nothing itself."""

    def __init__(self):
        super().__init__()
        self.reported = 0

    def count(self, message, num_bytes):
        self.reported += num_bytes


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wire_may_count_otherwise_and_carry_everything_unchanged(engine):
    plain, counting, reporting = (
        make_gan({0: [1, 1, 1, 1]}, wire=wire, engine=engine)
        for wire in (MemoryWire(), OneByteEach(), Reported())
    )
    for module in (plain, counting, reporting):
        run_step(module, make_batch([0]))
    assert plain.wire.is_identity
    assert not counting.wire.is_identity and not reporting.wire.is_identity
    # One generator pass and three of the discriminator, each over two cuts out and back.
    assert counting.wire.traffic.total() == 4 * 4
    assert reporting.wire.traffic.total() == 0
    assert reporting.wire.reported == plain.wire.traffic.total()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda sent: {"x": sent["x"].half()}, r"\{'x': '\(6, 16, 2, 2\) float16'\}"),
        (lambda sent: {"x": sent["x"][:3]}, r"\{'x': '\(3, 16, 2, 2\) float32'\}"),
        (lambda sent: {"y": sent["x"]}, r"\{'y': '\(6, 16, 2, 2\) float32'\}"),
        (lambda sent: sent["x"], r"\(6, 16, 2, 2\) float32"),
        (lambda sent: None, "NoneType"),
    ],
)
def test_a_wire_that_gives_another_name_shape_or_type_is_named(change, got, engine):
    class Changed(MemoryWire):
        def transmit(self, message):
            return change(message.tensors)

    sent = r"\{'x': '\(6, 16, 2, 2\) float32'\}"
    message = rf"Changed.transmit: .* at generator_head, {sent}, got {got}"
    with pytest.raises(HuscfError, match=message) as caught:
        run_step(make_gan({0: [1, 1, 1, 1]}, wire=Changed(), engine=engine), make_batch([0]))
    assert "\n" not in str(caught.value)
