import gc

import pytest
import torch

from huscf.errors import HuscfError, NonFiniteError
from huscf.split import Exchange, Parcel, is_finite
from tests.conftest import make_batch, make_gan, run_step


class Recorder(Exchange):
    """Keeps every parcel."""

    def __init__(self):
        super().__init__()
        self.parcels: list[Parcel] = []

    def transmit(self, parcel):
        self.parcels.append(parcel)
        return parcel.content


def test_what_arrives_has_no_link_to_the_senders_graph():
    source = torch.randn(3, 2, requires_grad=True)
    arrived = Exchange().send([0, 4], "generator_head", "activations", "uplink", source * 2)
    assert arrived.is_leaf
    assert arrived.grad_fn is None
    assert torch.equal(arrived, source * 2)


def test_at_the_server_activations_are_leaves_of_a_new_graph():
    module = make_gan({0: [1, 1, 1, 1]})
    module.start_step(0, *make_batch([0])[0], 0)
    (lane,) = module.run_u("generator", 0, module.client(0).noise).lanes
    for leaf in (lane.server_input, lane.tail_input):
        assert leaf.is_leaf
        assert leaf.requires_grad


def test_every_client_transmits_its_own_parcel():
    class Doubled(Exchange):
        def transmit(self, parcel):
            return parcel.content * (1 + parcel.client_id)

    arrived = Doubled().send([0, 1], "generator_head", "activations", "uplink", torch.ones(3, 2, 4))
    assert torch.equal(arrived[:, 0], torch.ones(3, 4))
    assert torch.equal(arrived[:, 1], 2 * torch.ones(3, 4))


def test_bytes_are_counted_per_client_cut_and_direction():
    exchange = Exchange()
    exchange.send([0, 3], "generator_head", "activations", "uplink", torch.zeros(2, 2, 3))
    exchange.send([0], "generator_head", "gradients", "downlink", torch.zeros(2, 1, 3).half())
    exchange.send([1], "discriminator_tail", "activations", "downlink", torch.zeros(5, 1).double())
    assert exchange.num_bytes[0, "generator_head", "uplink"] == 24
    assert exchange.num_bytes[0, "generator_head", "downlink"] == 12
    assert exchange.num_bytes[3, "generator_head", "uplink"] == 24
    assert exchange.total_bytes() == 100
    assert exchange.total_bytes(client_id=1) == 40
    assert exchange.total_bytes(direction="downlink") == 52


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_a_client_sends_must_be_finite(value):
    with pytest.raises(NonFiniteError, match="client 3: gradients at generator_tail"):
        sent = torch.zeros(2, 3)
        sent[1, 1:] = value
        Exchange().send([2, 3, 4], "generator_tail", "gradients", "uplink", sent)


def test_a_sum_that_overflows_is_still_finite():
    assert is_finite(torch.full((4,), 3e38))


@pytest.mark.parametrize(("mismatched_weight", "num_passes"), [(0.0, 4), (1.0, 5)])
def test_a_step_sends_only_activations_and_gradients_with_the_expected_traffic(
    mismatched_weight, num_passes
):
    cuts = {0: [1, 1, 1, 1], 4: [1, 2, 2, 1]}
    module = make_gan(cuts, mismatched_weight=mismatched_weight)
    module.exchange = recorder = Recorder()
    run_step(module, make_batch([0, 4]))
    for client in (0, 4):
        own = [p for p in recorder.parcels if p.client_id == client]
        sent = [(p.cut, p.kind, p.direction) for p in own]
        # One generator pass, the others the discriminator's; each crosses twice out and back.
        assert len(sent) == num_passes * 4
        for cut, kind, direction in sent:
            goes_out = cut.endswith("head") == (kind == "activations")
            assert direction == ("uplink" if goes_out else "downlink")
        assert {kind for _, kind, _ in sent} == {"activations", "gradients"}
    counted = sum(p.num_bytes for p in recorder.parcels)
    assert recorder.total_bytes() == counted


def private_tensors(module, batch):
    """Every tensor that must stay at its client in this step, raw and scaled."""
    tensors = []
    for client, (samples, labels) in batch.items():
        module.start_step(client, samples, labels, 0)
        held = module.client(client)
        tensors += [samples, labels, held.samples, held.labels, held.noise, held.wrong_labels]
        with torch.no_grad():
            fakes = module.parties.merged_network("generator", client)(held.noise, held.labels)
        tensors.append(fakes)
    return tensors


def test_no_private_tensor_crosses_or_is_reachable_from_the_server():
    cuts = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2]}
    module = make_gan(cuts, norm="group", mismatched_weight=1.0)
    module.exchange = recorder = Recorder()
    batch = make_batch([0, 1])
    private = private_tensors(module, batch)
    run_step(module, batch)
    storages = {tensor.untyped_storage().data_ptr() for tensor in private}
    for parcel in recorder.parcels:
        assert parcel.content.untyped_storage().data_ptr() not in storages
        for tensor in private:
            same = parcel.content.shape == tensor.shape
            assert not (same and torch.allclose(parcel.content.float(), tensor.float()))
    for tensor in reachable_tensors(module.server):
        assert tensor.untyped_storage().data_ptr() not in storages
        assert not any(
            tensor.shape == other.shape and torch.allclose(tensor.float(), other.float())
            for other in private
        )


def reachable_tensors(root):
    """All tensors that code holding the server could reach through references and graphs."""
    seen, found, queue = set(), [], [vars(root)]
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item)
            queue.append(item.grad_fn)
            continue
        if type(item).__name__ in ("module", "function", "builtin_function_or_method"):
            continue
        queue.extend(gc.get_referents(item))
    return found


def test_compression_shows_in_the_traffic():
    class Halving(Exchange):
        def transmit(self, parcel):
            return parcel.content.bfloat16().float()

        def measure(self, parcel):
            return parcel.num_bytes // 2

    plain, halving = make_gan({0: [1, 1, 1, 1]}), make_gan({0: [1, 1, 1, 1]}, exchange=Halving())
    for module in (plain, halving):
        run_step(module, make_batch([0]))
    assert halving.exchange.total_bytes() == plain.exchange.total_bytes() / 2


class OneByteEach(Exchange):
    def measure(self, parcel):
        return 1


class Reported(Exchange):
    """Counts nothing itself."""

    def __init__(self):
        super().__init__()
        self.reported = 0

    def count(self, client_id, cut, direction, num_bytes):
        self.reported += num_bytes


def test_a_wire_may_count_otherwise_and_carry_everything_unchanged():
    plain, counting, reporting = (
        make_gan({0: [1, 1, 1, 1]}, exchange=wire)
        for wire in (Exchange(), OneByteEach(), Reported())
    )
    for module in (plain, counting, reporting):
        run_step(module, make_batch([0]))
    assert plain.exchange.is_plain
    assert not counting.exchange.is_plain and not reporting.exchange.is_plain
    # One generator pass and three of the discriminator, each over two cuts out and back.
    assert counting.exchange.total_bytes() == 4 * 4
    assert reporting.exchange.total_bytes() == 0
    assert reporting.exchange.reported == plain.exchange.total_bytes()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda content: content.half(), r"\(6, 16, 2, 2\) float16"),
        (lambda content: content[:3], r"\(3, 16, 2, 2\) float32"),
        (lambda content: None, "NoneType"),
    ],
)
def test_a_wire_that_gives_another_shape_or_type_is_named(change, got):
    class Changed(Exchange):
        def transmit(self, parcel):
            return change(parcel.content)

    message = rf"Changed.transmit: .* at generator_head, \(6, 16, 2, 2\) float32, got {got}"
    with pytest.raises(HuscfError, match=message) as caught:
        run_step(make_gan({0: [1, 1, 1, 1]}, exchange=Changed()), make_batch([0]))
    assert "\n" not in str(caught.value)
