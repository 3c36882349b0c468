"""Networks whose blocks hand on several named tensors, such as a skip connection."""

import pytest
import torch
from torch import nn

from huscf.errors import HuscfError, PlanError
from huscf.models import Network
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import (
    FreeGan,
    Recorder,
    SgdGan,
    WatchedLoss,
    assert_equals_uncut,
    assert_same,
    halves,
    sgd,
    step_gradients,
)

WRITER, READER, DEPTH = 0, 3, 5


class Stem(nn.Module):
    """Joins noise and label, and hands on a map and a skip."""

    reads = ("x", "labels")
    writes = ("x", "skip")

    def __init__(self, latent_dim, num_classes):
        super().__init__()
        self.linear = nn.Linear(latent_dim + num_classes, 4 * 8 * 8)
        self.num_classes = num_classes

    def forward(self, noise, labels):
        known = nn.functional.one_hot(labels, self.num_classes).to(noise.dtype)
        values = self.linear(torch.cat([noise, known], 1)).view(-1, 4, 8, 8)
        return values.relu(), values


class Join(nn.Module):
    """Ends the skip."""

    reads = ("x", "skip")

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, values, skip):
        return self.layer(torch.cat([values, skip], 1))


def make_unet(shape, latent_dim):
    return Network(
        [
            Stem(latent_dim, shape.num_classes),
            nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()),
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1)),
            Join(),
            nn.Sequential(nn.Conv2d(4, shape.channels, 3, padding=1), nn.Tanh()),
        ]
    )


def make(cuts, wire=None, method_class=FreeGan, **options):
    settings = {"depth": DEPTH, "generator": make_unet, "weight_std": 0.2, **options}
    return make_gan(cuts, method_class=method_class, wire=wire, **settings)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_placement_equals_the_uncut_network_and_the_skip_crosses_where_it_must(engine):
    for head, tail in halves(DEPTH, least=0):
        wire = Recorder()
        module = make(
            {0: [head, tail, 1, 1]}, wire, lr=0.1, loss=WatchedLoss(), norm="none", engine=engine
        )
        assert_equals_uncut(module, make_batch([0]), sgd(0.1), msg=f"{head}, {tail}")
        sent = {
            (message.kind, message.direction)
            for message in wire.messages
            if message.topic.startswith("generator") and "skip" in message.tensors
        }
        at_server = range(head, DEPTH - tail)
        expected = set()
        if WRITER not in at_server and READER in at_server:
            expected = {("activations", "uplink"), ("gradients", "downlink")}
        if WRITER in at_server and READER not in at_server:
            expected = {("activations", "downlink"), ("gradients", "uplink")}
        assert sent == expected, (head, tail)


@pytest.mark.parametrize("engine", ENGINES)
def test_several_clients_with_skips_agree(engine):
    cuts = {0: [1, 1, 1, 1], 1: [1, 2, 1, 1], 2: [3, 1, 1, 1], 3: [1, 2, 1, 1]}
    options = {"generator": make_unet, "norm": "none", "weight_std": 0.2}
    one, other = (
        step_gradients(cuts, make_batch(cuts), engine=each, **options)
        for each in (engine, ENGINES[0])
    )
    assert_same(one, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_skip_stays_at_home_in_the_paper_s_method(engine):
    wire = Recorder()
    module = make({0: [1, 2, 1, 1], 1: [2, 2, 1, 1]}, wire, SgdGan, engine=engine)
    run_step(module, make_batch([0, 1]))
    assert len(wire.messages) == 2 * 4 * 4
    assert all(list(message.tensors) == ["x"] for message in wire.messages)


class Conditional(nn.Module):
    """A block in the middle that reads labels."""

    reads = ("x", "labels")

    def __init__(self):
        super().__init__()
        self.linear, self.embedding = nn.Linear(8, 8), nn.Embedding(3, 8)

    def forward(self, values, labels):
        return self.linear(values) + self.embedding(labels)


def conditional_generator(shape, latent_dim):
    last = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    middle = [nn.ReLU(), Conditional(), nn.Linear(8, 64)]
    return Network([nn.Linear(latent_dim, 8), *middle, last])


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_that_the_servers_blocks_read_cross_only_where_inputs_may(engine):
    options = {"generator": conditional_generator, "engine": engine}
    message = "client 4: generator_head 1 leaves the server blocks that read labels, which this"
    with pytest.raises(PlanError, match=message) as caught:
        make({3: [3, 1, 1, 1], 4: [1, 1, 1, 1]}, method_class=SgdGan, **options)
    assert "\n" not in str(caught.value)
    module = make({3: [3, 1, 1, 1], 4: [3, 1, 1, 1]}, method_class=SgdGan, **options)
    with pytest.raises(PlanError, match=message):
        module.engine.apply_plan(make({3: [3, 1, 1, 1], 4: [1, 1, 1, 1]}, **options).plan)
    for cuts in ([3, 1, 1, 1], [1, 3, 1, 1]):  # block 2 is the client's: labels stay
        wire = Recorder()
        run_step(make({0: cuts}, wire, SgdGan, **options), make_batch([0]))
        assert not any("labels" in message.tensors for message in wire.messages)
    wire = Recorder()
    run_step(make({0: [1, 1, 1, 1]}, wire, **options), make_batch([0]))
    kinds = {m.kind for m in wire.messages if "labels" in m.tensors}
    assert kinds == {"inputs"}


class Gate(nn.Module):
    """Hands on a number that others only compare with, so that no gradient comes back."""

    reads = ("x", "labels")
    writes = ("x", "gate")

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 8)

    def forward(self, noise, labels):
        values = self.linear(noise)
        return values, 2 * values


class Gated(nn.Module):
    reads = ("x", "gate")

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, values, gate):
        return self.linear(values) * (gate > 0)


def gated_generator(shape, latent_dim):
    last = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    return Network([Gate(), Gated(), nn.ReLU(), nn.Linear(8, 64), last])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cuts", [[1, 1], [1, 2], [2, 1], [0, 1]])
def test_what_nobody_differentiates_has_no_gradient_to_send(engine, cuts):
    module = make(
        {0: [*cuts, 1, 1]},
        lr=0.1,
        loss=WatchedLoss(),
        norm="none",
        engine=engine,
        generator=gated_generator,
    )
    assert_equals_uncut(module, make_batch([0]), sgd(0.1))


class Misnamed(nn.Module):
    reads = ("x", "time")

    def forward(self, values, time):
        return values + time


class OneOfTwo(nn.Module):
    writes = ("x", "skip")

    def forward(self, values):
        return values


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Misnamed(), r"block 1 \(Misnamed\) reads time, which nobody gives; there are .*labels"),
        (OneOfTwo(), r"block 1 \(OneOfTwo\) gives Tensor, needs to hand on the tensors x, skip"),
    ],
)
def test_names_that_do_not_fit_are_refused(block, message):
    def generator(shape, latent_dim):
        blocks = list(make_unet(shape, latent_dim))
        return Network([blocks[0], block, *blocks[1:]])

    with pytest.raises(HuscfError, match=message):
        make({0: [1, 1, 1, 1]}, generator=generator)
