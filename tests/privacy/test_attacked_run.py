"""What the server is said to see is what it is sent in a step."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from huscf.datamodules import DigitsDataModule
from huscf.methods import FedGan, FlowMatching, PooledGan, Vae
from huscf.models import SampleShape, UNet, to_float
from huscf.privacy import AttackedRun
from huscf.privacy.class_presence import attack_presence, measure_moves
from huscf.privacy.reference_view import ReferenceView
from huscf.training.observation import observe_batch, start_observer
from huscf.wire import MemoryWire
from tests.conftest import make_batch, make_gan
from tests.engines.cases import Recorder

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 2, 1], 2: [1, 1, 1, 1]}


def make_run(cuts=CUTS, **options):
    return AttackedRun(make_gan(cuts, engine="serial", **options))


@pytest.mark.parametrize("client", [0, 1])
def test_it_sees_the_activations_and_gradients_of_the_uncut_network(client):
    run = make_run()
    samples, labels = make_batch([client])[client]
    seen = run.observe(client, samples, labels, 6)
    network = run.module.engine.whole_network("discriminator", client)
    head, blocks = run.module.plan.by_client[client].cuts.head("discriminator"), list(network)
    activations = blocks[0](to_float(samples), labels)
    for block in blocks[1:head]:
        activations = block(activations)
    assert torch.allclose(seen.activations["x"], activations, atol=1e-6)
    for block in blocks[head:-1]:
        activations = block(activations)
    at_tail = activations.detach().requires_grad_()
    logits = blocks[-1](at_tail)
    binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
    assert torch.allclose(seen.gradients["x"], at_tail.grad, atol=1e-7)


def test_looking_changes_nothing_and_batches_are_as_large_as_the_client_s():
    run = make_run()
    samples, labels = make_batch([0], size=9)[0]
    before = {name: tensor.clone() for name, tensor in run.module.state_dict().items()}
    seen = run.observe(0, samples, labels, 6)
    assert len(seen.activations["x"]) == len(seen.gradients["x"]) == 9
    # Normalised by its batch: the first six as if they were alone, the last three with the first.
    first = run.observe(0, samples[:6], labels[:6], 6).activations["x"]
    assert torch.allclose(seen.activations["x"][:6], first, atol=1e-6)
    order = [6, 7, 8, 0, 1, 2]
    last = run.observe(0, samples[order], labels[order], 6).activations["x"][:3]
    assert torch.allclose(seen.activations["x"][6:], last, atol=1e-6)
    after = run.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_it_sees_what_the_run_s_wire_lets_arrive():
    class Doubled(MemoryWire):
        def transmit(self, message):
            return {name: 2 * tensor for name, tensor in message.tensors.items()}

    samples, labels = make_batch([0])[0]
    plain, doubled = (
        make_run(wire=wire).observe(0, samples, labels, 6).activations["x"]
        for wire in (None, Doubled())
    )
    assert torch.allclose(doubled, 2 * plain)


def test_the_server_s_own_run_of_a_head_is_the_client_s():
    run = make_run()
    samples, labels = make_batch([1])[1]
    mixture = torch.nn.functional.one_hot(labels, 3).float()
    made = run.soft_head(1)(to_float(samples), mixture)
    seen = run.observe(1, samples, labels, 6)
    assert torch.allclose(made["x"], seen.activations["x"], atol=1e-6)


@pytest.mark.parametrize("client", [0, 1])
def test_it_sees_what_clients_send_to_be_compared(client):
    wire = Recorder()
    run = make_run(wire=wire)
    batch = make_batch([client])
    observe_batch(start_observer(run.module, 6), run.module, batch)
    (sent,) = wire.messages
    view = ReferenceView(make_run())
    seen = view.observe(client, *batch[client], 6)
    assert sent.kind == "activations" and sent.tensors.keys() == seen.activations.keys()
    assert all(torch.equal(seen.activations[name], t) for name, t in sent.tensors.items())
    made = view.soft_head(client)(to_float(batch[client][0]), torch.zeros(6, 3))
    assert torch.allclose(made["x"], seen.activations["x"], atol=1e-6)
    assert not seen.gradients and not view.reads_labels(client)


def test_a_client_of_every_depth_is_attacked():
    assert make_run().find_depths() == {1: 0, 2: 1}


@pytest.mark.parametrize(
    ("method", "cuts", "options", "depths", "reason"),
    [
        (FedGan, [2, 2, 2, 2], {}, {}, None),
        (PooledGan, [0, 0, 0, 0], {}, {0: 0}, None),
        (Vae, [2, 1, 1, 2], {}, {2: 0}, None),
    ],
)
def test_methods_that_send_nothing_or_everything(method, cuts, options, depths, reason):
    if method is Vae:
        from functools import partial

        from huscf.models import ConditionalEncoder, ConditionalGenerator
        from huscf.split import ExplicitPlan
        from huscf.training import SplitModule

        vae = Vae(
            partial(ConditionalEncoder, width=4, depth=4),
            partial(ConditionalGenerator, width=4, depth=4),
        )
        module = SplitModule(
            SampleShape(1, 8, 3), {0: 6}, {0: 60}, vae, ExplicitPlan({0: cuts}), engine="serial"
        )
        run = AttackedRun(module)
    else:
        run = make_run({0: cuts}, method_class=method)
    assert run.find_depths() == depths
    if depths:
        assert run.why_not_inverted(0) == reason


def test_a_head_that_sees_noised_samples_is_not_inverted():
    from functools import partial

    from huscf.training import SplitModule

    method = FlowMatching(partial(UNet, width=8))
    module = SplitModule(SampleShape(1, 8, 3), {0: 6}, {0: 60}, method, engine="serial")
    run = AttackedRun(module)
    assert run.why_not_inverted(0) == (
        "no pass takes a client's samples as they are through a head"
    )
    samples, labels = make_batch([0])[0]
    assert len(run.observe(0, samples, labels, 6).activations["x"]) == 6


def test_rows_of_an_embedding_tell_which_classes_a_client_has():
    data = DigitsDataModule(clients_per_domain=1, batch_size=32)
    run = make_run(
        {key: [1, 1, 1, 1] for key in range(2)}, shape=SampleShape(1, 8, 10), norm="group"
    )
    assert attack_presence(run, data, 0) == {
        "generator": {"auroc": 1.0},
        "discriminator": {"auroc": 1.0},
    }


def test_blocks_that_arrive_blurred_tell_less():
    class Blurred(MemoryWire):
        def transmit(self, message):
            if message.kind != "blocks":
                return message.tensors
            return {n: t + 10 * torch.randn_like(t) for n, t in message.tensors.items()}

    torch.manual_seed(0)
    data = DigitsDataModule(clients_per_domain=1, batch_size=32)
    run = make_run(
        {key: [1, 1, 1, 1] for key in range(2)}, shape=SampleShape(1, 8, 10), wire=Blurred()
    )
    found = attack_presence(run, data, 0)["discriminator"]["auroc"]
    # 10 rows of each kind: standard error 0.13.
    assert found == pytest.approx(0.5, abs=0.35)


def test_moves_are_distances_of_rows_of_classes():
    before, after = torch.zeros(4, 2), torch.tensor([[3.0, 4.0], [0, 0], [0, 1], [9, 9]])
    assert measure_moves(before, after, 3).tolist() == [5.0, 0.0, 1.0]
