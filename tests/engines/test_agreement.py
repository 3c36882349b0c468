"""Engines agree with each other over several steps, whatever is trained."""

import copy

import pytest
import torch
from torch import nn

from huscf.methods import DiscriminatorAugmentation, RateSchedule
from huscf.models import ConditionalDiscriminator, Network
from huscf.models.conditional_discriminator import DiscriminatorStem
from huscf.wire import DefendedWire
from tests.conftest import ENGINES, make_batch, make_gan, run_step
from tests.engines.cases import (
    DoubleGan,
    SgdGan,
    WatchedGan,
    WatchedLoss,
    assert_equals_uncut,
    assert_same,
    step_gradients,
)

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1], 2: [2, 1, 1, 2], 3: [1, 2, 2, 1]}


class Draws(DiscriminatorStem):
    """A first block that draws random numbers in training."""

    def forward(self, samples, labels):
        return super().forward(nn.functional.dropout(samples, training=self.training), labels)


def drawing_discriminator(shape):
    first = Draws(shape, nn.Sequential(nn.Conv2d(2, 4, 4, 2, 1)))
    return Network([first, *list(ConditionalDiscriminator(shape, width=4, depth=5))[1:]])


def spectral_discriminator(shape):
    return ConditionalDiscriminator(shape, width=4, depth=5, norm="none", spectral_norm=True)


class ChannelsLast(nn.Module):
    """Leaves gradients in another memory layout than its weights."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, values):
        return self.layer(values.contiguous(memory_format=torch.channels_last)).relu().contiguous()


def channels_last_discriminator(shape):
    blocks = list(ConditionalDiscriminator(shape, width=4, depth=5, norm="none"))
    blocks[1] = ChannelsLast(blocks[1][0])
    return Network(blocks)


CASES = {
    "plain": {},
    "no norms": {"norm": "none"},
    "group norms": {"norm": "group"},
    "shares by samples": {
        "server_gradient": "samples",
        "client_sizes": {c: 30 * (c + 1) for c in CUTS},
    },
    "wrong labels": {"mismatched_weight": 1.0, "mismatched_steps": 3},
    "augmentation": {
        "augmentation": DiscriminatorAugmentation(("translation", "cutout", "colour", "flip")),
        "mismatched_weight": 1.0,
    },
    "adaptive augmentation": {
        "augmentation": DiscriminatorAugmentation(
            ("flip", "colour"), adaptive=True, ramp_samples=60
        )
    },
    "a first block that draws": {"discriminator": drawing_discriminator},
    "spectral norms": {"discriminator": spectral_discriminator},
    "channels last": {"discriminator": channels_last_discriminator},
    "a wire that clips, blurs and rounds": {
        "wire": DefendedWire(
            clip={"gradients": 0.5},
            noise={"activations": 0.2, "gradients": 0.2},
            bits={"activations": 8},
        )
    },
    "a penalty on heads": {"head_penalty": 0.5, "mismatched_weight": 1.0},
    "samples that are to differ": {"mode_seeking": 0.5},
    "labels of fakes from a public distribution": {"fake_label_weights": [1.0, 2.0, 0.0]},
    "rates that fall": {"rate_schedule": RateSchedule(fall_until=4, warmup_steps=1)},
}


def train(engine, steps=3, lr=0.05, cuts=CUTS, **options):
    """Some steps of gradient descent; losses, everybody's tensors, and the module."""
    settings = {"depth": 5, "weight_std": 0.2, "method_class": DoubleGan, "lr": lr, **options}
    module = make_gan(cuts, engine=engine, **settings)
    torch.manual_seed(3)
    losses = [run_step(module, make_batch(cuts, seed=step), step) for step in range(steps)]
    return losses, module.parties.state_dict(), module


def assert_alike(one, other):
    for losses, expected in zip(one[0], other[0], strict=True):
        assert losses == pytest.approx(expected, abs=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=1e-5, atol=1e-5)


def server_norms(name):
    """Whether a tensor follows the order in which clients pass the server."""
    return name.startswith("server") and "running_" in name


@pytest.mark.parametrize("case", CASES)
def test_stacked_equals_serial_over_several_steps(case, double_precision):
    serial, stacked = (train(engine, **copy.deepcopy(CASES[case])) for engine in ENGINES)
    for each in (serial, stacked):
        for name in [n for n in each[1] if server_norms(n)]:
            del each[1][name]
    assert_alike(serial, stacked)
    one, other = serial[2], stacked[2]
    assert one.wire.traffic.num_bytes == other.wire.traffic.num_bytes
    summaries = [module.engine.observe().summary for module in (one, other)]
    for figures in ("means", "counts", "covariance", "maps"):
        each = [torch.as_tensor(getattr(summary, figures)) for summary in summaries]
        torch.testing.assert_close(*each, rtol=1e-3, atol=1e-4)
    usual = [module.server.guard.state_dict()["usual"] for module in (one, other)]
    assert usual[0] == pytest.approx(usual[1], rel=1e-3)


def test_the_server_s_running_statistics_are_those_of_every_client_once(double_precision):
    alone = {0: [1, 1, 1, 1]}
    serial, stacked = (train(engine, cuts=alone) for engine in ENGINES)
    assert any(map(server_norms, serial[1]))
    assert_alike(serial, stacked)
    # Of several clients the order is client, pass in one engine and pass, client in the other.
    counts = [
        {k: int(v) for k, v in train(engine)[1].items() if k.endswith("num_batches_tracked")}
        for engine in ENGINES
    ]
    assert counts[0] == counts[1]


def test_bf16_agrees_to_its_own_rounding():
    with torch.autocast("cpu", torch.bfloat16):
        one, other = (
            step_gradients(CUTS, make_batch(CUTS), norm="none", weight_std=0.2, engine=engine)
            for engine in ENGINES
        )
    assert one[0] == pytest.approx(other[0], abs=5e-3)
    for name, value in one[1].items():
        size = value.abs().max().item() + 1e-4
        torch.testing.assert_close(other[1][name], value, rtol=0, atol=0.1 * size)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_autocast_keeps_do_not_miss_an_optimisers_step(engine):
    def step(**options):
        module = make_gan(CUTS, depth=5, norm="group", discriminator_lr=5e-3, engine=engine)
        with torch.autocast("cpu", torch.bfloat16, **options):
            return run_step(module, make_batch(CUTS))

    assert step() == step(cache_enabled=False)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cuts", [[1, 1, 1, 1], [1, 1, 2, 1]])
def test_gradients_in_another_layout_move_the_same_weights(engine, cuts):
    # Fused optimisers ignore strides; without norms no gradient is zero but for rounding.
    module = make_gan(
        {0: cuts},
        depth=5,
        norm="none",
        weight_std=0.2,
        discriminator=channels_last_discriminator,
        engine=engine,
        method_class=WatchedGan,
        loss=WatchedLoss(),
    )
    assert_equals_uncut(module, make_batch([0]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("head", [1, 2, 3])
def test_spectral_norms_equal_the_uncut_networks(engine, head):
    module = make_gan(
        {0: [1, 1, head, 1]},
        depth=5,
        discriminator=spectral_discriminator,
        engine=engine,
        method_class=SgdGan,
        lr=0.1,
    )
    assert_equals_uncut(module, make_batch([0]), lambda p: torch.optim.SGD(p, 0.1))


def test_a_drawing_block_draws_the_same_numbers_in_every_engine():
    results = []
    for engine in ENGINES:
        torch.manual_seed(1)
        found = step_gradients(
            CUTS, make_batch(CUTS), discriminator=drawing_discriminator, engine=engine
        )
        results.append((found, torch.get_rng_state()))
    assert_same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_without_clients_changes_nothing(engine):
    module = make_gan(CUTS, depth=5, engine=engine)
    before = {k: v.clone() for k, v in module.parties.state_dict().items()}
    result = module.engine.run_step({}, 0)
    assert result.dropped == () and all(value != value for value in result.losses.values())
    after = module.parties.state_dict()
    assert all(torch.equal(value, after[k]) for k, value in before.items())


def test_losses_are_asked_once_for_each_client_and_pass():
    for engine in ENGINES:
        loss = WatchedLoss()
        run_step(make_gan(CUTS, depth=5, loss=loss, engine=engine), make_batch(CUTS))
        assert [tuple(logits.shape) for logits in loss.logits] == [(6,)] * (3 * len(CUTS))
