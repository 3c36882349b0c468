"""Networks of a user's own: whatever PyTorch makes blocks of goes through a whole round."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from huscf.errors import HuscfError
from huscf.models import (
    AdversarialLoss,
    ConditionalDiscriminator,
    ConditionalGenerator,
    Network,
    SqueezeLogit,
    check_networks,
)
from huscf.models.conditional_discriminator import DiscriminatorStem
from huscf.modules import Segment, SplitGAN
from huscf.planning import measure_plan_costs
from huscf.split import ExplicitPlan
from tests.conftest import SHAPE, make_batch, make_gan, run_step
from tests.split.test_equality import start, uncut_step

CUTS = {0: [1, 1, 1, 1], 1: [2, 1, 1, 2], 2: [1, 2, 2, 1]}


class Stem(nn.Module):
    """Joins noise and label; no class that huscf knows."""

    def __init__(self, latent_dim, num_classes):
        super().__init__()
        self.linear = nn.Linear(latent_dim + num_classes, 4 * 4 * 4)
        self.num_classes = num_classes

    def forward(self, noise, labels):
        known = nn.functional.one_hot(labels, self.num_classes).float()
        return self.linear(torch.cat([noise, known], 1)).view(-1, 4, 4, 4)


def frozen_blur():
    blur = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    nn.init.constant_(blur.weight, 1 / 9)
    return blur.requires_grad_(False)


def make_generator(shape, latent_dim, second, third):
    return Network(
        [
            Stem(latent_dim, shape.num_classes),
            second(),
            third(),
            nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.InstanceNorm2d(4)),
            nn.Sequential(nn.Conv2d(4, shape.channels, 3, 1, 1), nn.Tanh()),
        ]
    )


def upsample():
    return nn.Upsample(scale_factor=2)


def in_place():
    return nn.Sequential(nn.ReLU(inplace=True), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 1))


def convolution():
    return nn.Conv2d(4, 4, 3, 1, 1)


BLOCKS = [
    (upsample, convolution),
    (in_place, convolution),
    (convolution, in_place),
    (upsample, frozen_blur),
    (nn.Identity, in_place),
]


def make_own(second, third, **options):
    module = SplitGAN(
        SHAPE,
        dict.fromkeys(CUTS, 6),
        dict.fromkeys(CUTS, 60),
        partial(make_generator, second=second, third=third),
        partial(ConditionalDiscriminator, width=4, depth=5, norm="none"),
        ExplicitPlan(CUTS),
        latent_dim=5,
        **options,
    )
    attach_optimizers(module)
    return module


def attach_optimizers(module):
    optimizers = dict(
        zip(("generator", "discriminator"), module.configure_optimizers(), strict=True)
    )
    module.optimizer = optimizers.__getitem__


@pytest.mark.parametrize(("second", "third"), BLOCKS)
def test_own_blocks_train_as_an_uncut_network_would_and_are_federated(second, third):
    module, uncut = (make_own(second, third, generator_lr=0.1) for _ in range(2))
    batch = make_batch(CUTS)
    run_step(module, {0: batch[0]})
    # The same networks, cut elsewhere.
    uncut.apply_plan(ExplicitPlan({c: [2, 2, 1, 1] for c in CUTS}).make_plan(request_of(uncut)))
    attach_optimizers(uncut)
    run_step(uncut, {0: batch[0]})
    one, other = (m.parties.merged_network("generator", 0).state_dict() for m in (module, uncut))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)
    for step in range(1, 3):
        run_step(module, make_batch(CUTS, seed=step), step)
        module.update_average(step)
    module.federate(dict.fromkeys(CUTS, 0), dict.fromkeys(CUTS, 1 / 3), moments="average")
    first = module.parties.merged_network("generator", 0).state_dict()
    for client in CUTS:
        state = module.parties.merged_network("generator", client).state_dict()
        assert all(torch.equal(value, first[name]) for name, value in state.items())
    drawn = module.sample(1, torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert drawn.isfinite().all()


def request_of(module):
    from huscf.split import PlanRequest

    networks = [module.parties.merged_network(n, 0) for n in ("generator", "discriminator")]
    return PlanRequest(*networks, SHAPE, 5, dict.fromkeys(CUTS, 6))


class OneHot(nn.Module):
    """Appends the label, as numbers or planes; nothing to train."""

    def forward(self, inputs, labels):
        known = nn.functional.one_hot(labels, 3).float()
        known = known.view(*known.shape, *[1] * (inputs.ndim - 2))
        return torch.cat([inputs, known.expand(-1, -1, *inputs.shape[2:])], 1)


def one_hot_generator(shape, latent_dim):
    last = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    return Network([OneHot(), nn.Linear(latent_dim + 3, 32), nn.Linear(32, 64), last])


def one_hot_discriminator(shape):
    last = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), SqueezeLogit())
    return Network([OneHot(), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1), last])


def make_one_hot(cuts):
    sizes = dict.fromkeys(cuts, 6)
    networks = (one_hot_generator, one_hot_discriminator)
    module = SplitGAN(SHAPE, sizes, sizes, *networks, ExplicitPlan(cuts), latent_dim=5)
    attach_optimizers(module)
    return module


def test_heads_without_parameters_train_the_rest_as_uncut_networks_would():
    module = make_one_hot({0: [1, 1, 1, 1]})
    networks = start(module, make_batch([0]))[0]
    losses, gradients, _ = uncut_step(networks, copy.copy(module.client(0)))
    found = run_step(module, make_batch([0]))
    for name, expected in gradients.items():
        assert found[name] == pytest.approx(losses[name], abs=1e-5)
        merged = module.parties.merged_network(name, 0).parameters()
        for parameter, gradient in zip(merged, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_frozen_heads_stay_and_their_gradients_count_as_traffic():
    frozen, free = (make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}) for _ in range(2))
    heads = [frozen.client(c).segment("discriminator", "head") for c in (0, 1)]
    for head in heads:
        head.requires_grad_(False)
    before = [p.clone() for head in heads for p in head.parameters()]
    for module in (frozen, free):
        run_step(module, make_batch([0, 1]))
    after = [p for head in heads for p in head.parameters()]
    assert all(map(torch.equal, before, after))
    assert frozen.exchange.num_bytes == free.exchange.num_bytes


@pytest.mark.parametrize(("second", "third"), BLOCKS)
def test_own_blocks_can_be_planned(second, third):
    torch.manual_seed(3)
    networks = (
        make_generator(SHAPE, 5, second, third),
        ConditionalDiscriminator(SHAPE, width=4, depth=5),
    )
    before = torch.get_rng_state()
    costs = measure_plan_costs(networks, SHAPE, 5, batch_size=6)
    assert len(costs.generator) == 5 and all(c.output_bytes > 0 for c in costs.generator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_every_norm_of_the_built_in_networks_goes_through_a_round(norm):
    module = make_gan(CUTS, depth=5, norm=norm)
    for step in range(2):
        run_step(module, make_batch(CUTS, seed=step), step)
        module.update_average(step)
    module.federate(dict.fromkeys(CUTS, 0), dict.fromkeys(CUTS, 1 / 3))
    drawn = module.sample(0, torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert drawn.isfinite().all()


@pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_layers_that_cannot_be_copied_are_refused(wrap):
    with pytest.raises(HuscfError, match=r"block 1: .*torch.nn.utils.parametrizations"):
        Network([nn.Linear(2, 2), nn.Sequential(wrap(nn.Linear(2, 2)))])


class Dice(nn.Module):
    """Draws random numbers and counts its passes, even in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, values):
        self.count += 1
        return values + 0 * torch.randn_like(values)


def generator_with(*blocks):
    return Network([*list(ConditionalGenerator(SHAPE, 5, width=4, depth=4)), *blocks])


def discriminator_with(*blocks):
    return Network([*list(ConditionalDiscriminator(SHAPE, width=4, depth=4)), *blocks])


class NoisyStem(DiscriminatorStem):
    """Draws while it joins, in training alone."""

    def join(self, samples, labels):
        return super().join(nn.functional.dropout(samples, training=self.training), labels)


class NoisyForward(NoisyStem):
    def forward(self, samples, labels):
        return super().forward(samples, labels)


class Pair(nn.Module):
    def forward(self, values):
        return values, values


def discriminator_from(stem):
    others = list(ConditionalDiscriminator(SHAPE, width=4, depth=4))[1:]
    return Network([stem(SHAPE, nn.Sequential(nn.Conv2d(2, 4, 4, 2, 1))), *others])


def tied_discriminator():
    block, layer = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1)), nn.ReLU()
    first, *others = ConditionalDiscriminator(SHAPE, width=4, depth=4)
    return Network([first, block.append(layer), nn.Sequential(block[0], layer), *others])


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"generator": lambda *_: generator_with(nn.Upsample(scale_factor=2))},
            r"generator: gives \(2, 1, 16, 16\) for 2 samples, needs \(2, 1, 8, 8\)",
        ),
        (
            {"generator": lambda *_: list(generator_with())},
            r"generator: needs to be a huscf.models.Network\(\[block, ...\]\), got list",
        ),
        (
            {"generator": lambda *_: Network([nn.Linear(5, 64), nn.Tanh()])},
            r"generator: block 0 \(Linear\) gets \(input, labels\) and fails on .*: TypeError",
        ),
        (
            {"discriminator": lambda *_: Network([nn.Flatten(), nn.Linear(64, 1)])},
            r"discriminator: block 0 \(Flatten\) gets \(input, labels\)",
        ),
        (
            {"discriminator": lambda *_: discriminator_with(nn.Unflatten(0, (1, 2)))},
            r"discriminator: gives \(1, 2\) for 2 samples, needs one logit for each, \(2,\)",
        ),
        (
            {"discriminator": lambda *_: discriminator_with(nn.Linear(3, 1))},
            r"discriminator: block 4 \(Linear\) gets one tensor and fails on \(2,\): RuntimeError",
        ),
        ({"discriminator": lambda *_: None}, r"discriminator: needs to be .*, got NoneType"),
        (
            {"discriminator": lambda *_: discriminator_with(Pair())},
            r"discriminator: block 4 \(Pair\) gives tuple, needs to hand on one tensor",
        ),
        (
            {"discriminator": lambda *_: tied_discriminator()},
            "discriminator: blocks 1 and 2 share a parameter",
        ),
        (
            {"discriminator": lambda *_: discriminator_from(NoisyStem)},
            r"discriminator: block 0 \(NoisyStem\): join draws random numbers",
        ),
    ],
)
def test_networks_that_break_the_contract_are_refused_when_built(replaced, message):
    with pytest.raises(HuscfError, match=message) as caught:
        SplitGAN(SHAPE, {0: 6}, {0: 60}, latent_dim=5, **replaced)
    assert "\n" not in str(caught.value)


def test_a_forward_of_its_own_may_draw():
    check_networks(generator_with(), discriminator_from(NoisyForward), SHAPE, 5)


class Averages(AdversarialLoss):
    """Writes down what it is given."""

    def __init__(self):
        self.shapes = []

    def discriminator(self, logits, is_real):
        self.shapes.append(tuple(logits.shape))
        return -logits.mean() if is_real else logits.mean()

    def generator(self, logits):
        return self.discriminator(logits, True)


def test_losses_are_given_one_logit_for_each_sample_whatever_the_last_block_gives():
    loss = Averages()
    module = make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}, loss=loss)
    for client in (0, 1):
        tail = module.client(client).segment("discriminator", "tail").block(3)
        module.client(client).discriminator_tail = Segment(
            {3: tail.append(nn.Unflatten(0, (-1, 1)))}
        )
    run_step(module, make_batch([0, 1]))
    assert loss.shapes == [(6,)] * 6


@pytest.mark.parametrize("blocks", [[], [nn.Unflatten(0, (-1, 1))]], ids=["(B,)", "(B, 1)"])
def test_trying_networks_out_changes_nothing(blocks):
    networks = generator_with(Dice(), nn.Dropout(0.5)), discriminator_with(*blocks)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    stream = torch.get_rng_state()
    check_networks(*networks, SHAPE, 5)
    assert torch.equal(torch.get_rng_state(), stream)
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[k]) for k, value in network.state_dict().items())
        assert all(module.training for module in network.modules())
