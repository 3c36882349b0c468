"""Nothing private crosses the wire or can be reached from the server."""

import gc

import pytest
import torch

from huscf.engines import Mixture
from huscf.wire import SERVER
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import Recorder, load, plan_of

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2]}
MOVED = {0: [2, 1, 2, 1], 1: [1, 1, 1, 1]}


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


def is_same(one, other):
    return one.shape == other.shape and torch.allclose(one.float(), other.float())


class Auditor(Recorder):
    """Looks at every message, and from time to time at all that the server can reach."""

    def __init__(self):
        super().__init__()
        self.private, self.server, self.num_audits = [], None, 0

    def transmit(self, message):
        storages = {tensor.untyped_storage().data_ptr() for tensor in self.private}
        found = list(message.tensors.values())
        if message.sender == SERVER and len(self.messages) % 5 == 0:
            self.num_audits += 1
            found += reachable_tensors(self.server)
        for tensor in found:
            assert tensor.untyped_storage().data_ptr() not in storages
            assert not any(is_same(tensor, own) for own in self.private)
        return super().transmit(message)


def private_tensors(module, batch):
    """Every tensor that must stay at its client in a step, raw and scaled, and its fakes."""
    tensors = [tensor for own in batch.values() for tensor in own]
    for client, private in load(module, batch).items():
        assert set(private) == {"samples", "labels", "noise", "wrong_labels"}
        tensors += private.values()
        with torch.no_grad():
            generator = module.engine.whole_network("generator", client)
            tensors.append(generator(private["noise"], private["labels"]))
    return tensors


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_private_crosses_in_steps_federations_and_moves(engine):
    wire = Auditor()
    module = make_gan(CUTS, depth=5, norm="group", mismatched_weight=1.0, wire=wire, engine=engine)
    wire.server = module.server
    kinds = []
    for step in range(2):
        batch = make_batch(CUTS, seed=step)
        wire.private += private_tensors(module, batch)
        run_step(module, batch, step)
        kinds.append({m.kind for m in wire.messages})
        wire.messages.clear()
        if step:
            module.engine.apply_plan(plan_of(MOVED))
        mixture = Mixture({0: 0, 1: 0}, {0: 0.5, 1: 0.5}, moments="average")
        module.engine.mix(mixture)
        kinds.append({m.kind for m in wire.messages})
        wire.messages.clear()
    steps = {"activations", "gradients"}
    assert kinds == [steps, {"blocks"}, steps, {"blocks", "moved_blocks"}]
    assert set.union(*kinds) <= module.method.kinds
    assert wire.num_audits > 3


@pytest.mark.parametrize("engine", ENGINES)
def test_the_audit_finds_what_leaks(engine):
    wire = Auditor()
    module = make_gan(CUTS, depth=5, norm="group", mismatched_weight=1.0, wire=wire, engine=engine)
    batch = make_batch(CUTS)
    wire.private = private_tensors(module, batch)
    wire.server = module.server
    module.server.note = [{"deep": module.client(1).private["noise"]}]
    module.engine.load_batches = lambda *_: list(CUTS)
    with pytest.raises(AssertionError):
        run_step(module, batch)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("mismatched_weight", "num_passes"), [(0.0, 4), (1.0, 5)])
def test_a_step_sends_only_activations_and_gradients_with_the_expected_traffic(
    mismatched_weight, num_passes, engine
):
    cuts = {0: [1, 1, 1, 1], 4: [1, 2, 2, 1]}
    wire = Recorder()
    module = make_gan(cuts, mismatched_weight=mismatched_weight, wire=wire, engine=engine)
    run_step(module, make_batch([0, 4]))
    for client in (0, 4):
        own = [m for m in wire.messages if m.client_id == client]
        sent = [(m.topic, m.kind, m.direction) for m in own]
        # One generator pass, the others the discriminator's; each crosses twice out and back.
        assert len(sent) == num_passes * 4
        for cut, kind, direction in sent:
            goes_out = cut.endswith("head") == (kind == "activations")
            assert direction == ("uplink" if goes_out else "downlink")
        assert {kind for _, kind, _ in sent} == {"activations", "gradients"}
    assert wire.traffic.total() == sum(m.num_bytes for m in wire.messages)


@pytest.mark.parametrize("engine", ENGINES)
def test_at_the_server_and_the_tail_what_arrives_are_leaves_of_graphs_of_their_own(engine):
    module = make_gan(CUTS, depth=5, wire=(wire := Recorder()), engine=engine)
    run_step(module, make_batch(CUTS))
    for message in wire.messages:
        for tensor in message.tensors.values():
            assert tensor.grad_fn is None and not tensor.requires_grad
