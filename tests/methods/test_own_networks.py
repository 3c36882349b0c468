"""Networks of a user's own: whatever PyTorch makes blocks of goes through a whole round."""

from functools import partial

import pytest
import torch
from torch import nn

from huscf.engines import Mixture
from huscf.errors import HuscfError
from huscf.methods import HuscfGan, request_plan
from huscf.models import (
    AdversarialLoss,
    ConditionalDiscriminator,
    ConditionalGenerator,
    Network,
    SqueezeLogit,
)
from huscf.planning import measure_plan_costs
from huscf.split import Placement
from tests.conftest import ENGINES, SHAPE, make_batch, make_gan, run_step
from tests.engines.cases import SgdGan, WatchedLoss, assert_equals_uncut, plan_of, sgd

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


def make_own(second, third, cuts=CUTS, **options):
    generator = partial(make_generator, second=second, third=third)
    settings = {"depth": 5, "norm": "none", "generator": generator, **options}
    return make_gan(cuts, **settings)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("second", "third"), BLOCKS)
def test_own_blocks_train_as_an_uncut_network_would_and_are_federated(second, third, engine):
    for cuts in ([1, 1, 1, 1], [2, 2, 1, 1], [3, 1, 2, 1], [1, 3, 1, 2]):
        options = {"method_class": SgdGan, "lr": 0.1, "loss": WatchedLoss(), "engine": engine}
        alone = make_own(second, third, {0: cuts}, **options)
        assert_equals_uncut(alone, make_batch([0]), sgd(0.1), msg=f"{cuts}")
    module = make_own(second, third, engine=engine)
    for step in range(2):
        run_step(module, make_batch(CUTS, seed=step), step)
    module.engine.apply_plan(plan_of({c: [2, 2, 1, 1] for c in CUTS}))
    run_step(module, make_batch(CUTS, seed=2), 2)
    everyone = Mixture(dict.fromkeys(CUTS, 0), dict.fromkeys(CUTS, 1 / 3), moments="average")
    module.engine.mix(everyone)
    for holding in ("trained", "average"):
        first = module.engine.whole_network("generator", 0, holding).state_dict()
        for client in CUTS:
            state = module.engine.whole_network("generator", client, holding).state_dict()
            assert all(torch.equal(value, first[name]) for name, value in state.items())
    drawn = module.sample(1, torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert drawn.isfinite().all()


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


@pytest.mark.parametrize("engine", ENGINES)
def test_heads_without_parameters_train_the_rest_as_uncut_networks_would(engine):
    module = make_gan(
        {0: [1, 1, 1, 1]},
        generator=one_hot_generator,
        discriminator=one_hot_discriminator,
        method_class=SgdGan,
        lr=0.1,
        engine=engine,
    )
    assert_equals_uncut(module, make_batch([0]), sgd(0.1))


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_heads_stay_and_their_gradients_count_as_traffic(engine):
    cuts = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}
    frozen, free = (make_gan(cuts, engine=engine) for _ in range(2))
    heads = [frozen.client(c).trained.segment("discriminator", "head") for c in (0, 1)]
    for head in heads:
        head.requires_grad_(False)
    before = [p.clone() for head in heads for p in head.parameters()]
    for module in (frozen, free):
        run_step(module, make_batch([0, 1]))
    after = [p for head in heads for p in head.parameters()]
    assert all(map(torch.equal, before, after))
    assert frozen.wire.traffic.num_bytes == free.wire.traffic.num_bytes


@pytest.mark.parametrize(("second", "third"), BLOCKS)
def test_own_blocks_can_be_planned(second, third):
    torch.manual_seed(3)
    method = HuscfGan(
        partial(make_generator, second=second, third=third),
        partial(ConditionalDiscriminator, width=4, depth=5),
        latent_dim=5,
    )
    networks = method.build_networks(SHAPE)
    before = torch.get_rng_state()
    costs = measure_plan_costs(request_plan(method, networks, SHAPE, {0: 6}))
    blocks = costs.blocks["generator"]
    assert len(blocks) == 5 and all(c.output_bytes > 0 for c in blocks)
    assert torch.equal(torch.get_rng_state(), before)


class Late(nn.Module):
    """Reads the labels in the middle of a network."""

    reads = ("x", "labels")

    def forward(self, x, labels):
        return x * (1 + labels.view(-1, 1, 1, 1) / 10)


def test_no_plan_leaves_the_server_a_block_that_reads_labels():
    torch.manual_seed(3)
    generator = partial(make_generator, second=upsample, third=Late)
    discriminator = partial(ConditionalDiscriminator, width=4, depth=5)
    method = HuscfGan(generator, discriminator, latent_dim=5)
    request = request_plan(method, method.build_networks(SHAPE), SHAPE, {0: 6})
    assert request.placements["generator"] == Placement(min_head=3)
    assert request.placements["discriminator"] == Placement()


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_every_norm_of_the_built_in_networks_goes_through_a_round(norm):
    module = make_gan(CUTS, depth=5, norm=norm)
    for step in range(2):
        run_step(module, make_batch(CUTS, seed=step), step)
    module.engine.mix(Mixture(dict.fromkeys(CUTS, 0), dict.fromkeys(CUTS, 1 / 3)))
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


class Pair(nn.Module):
    def forward(self, values):
        return values, values


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
            {"generator": lambda *_: Network([nn.Bilinear(5, 2, 64), nn.Tanh()])},
            r"generator: block 0 \(Bilinear\) gets \(input, labels\) and fails on \(2, 5\): ",
        ),
        (
            {"discriminator": lambda *_: Network([nn.Linear(64, 1), nn.Flatten()])},
            r"discriminator: block 0 \(Linear\) gets one tensor and fails on \(2, 1, 8, 8\): ",
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
    ],
)
def test_networks_that_break_the_contract_are_refused_when_built(replaced, message):
    with pytest.raises(HuscfError, match=message) as caught:
        make_gan({0: [1, 1, 1, 1]}, **replaced)
    assert "\n" not in str(caught.value)


class Averages(AdversarialLoss):
    """Writes down what it is given."""

    def __init__(self):
        self.shapes = []

    def discriminator(self, logits, is_real):
        self.shapes.append(tuple(logits.shape))
        return -logits.mean() if is_real else logits.mean()

    def generator(self, logits):
        return self.discriminator(logits, True)


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_are_given_one_logit_for_each_sample_whatever_the_last_block_gives(engine):
    loss = Averages()
    module = make_gan({0: [1, 1, 1, 1], 1: [1, 1, 1, 1]}, loss=loss, engine=engine)
    for client in (0, 1):
        module.client(client).blocks("discriminator")[3].append(nn.Unflatten(0, (-1, 1)))
    run_step(module, make_batch([0, 1]))
    assert loss.shapes == [(6,)] * 6


@pytest.mark.parametrize("blocks", [[], [nn.Unflatten(0, (-1, 1))]], ids=["(B,)", "(B, 1)"])
def test_trying_networks_out_changes_nothing(blocks):
    networks = generator_with(Dice(), nn.Dropout(0.5)), discriminator_with(*blocks)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    stream = torch.get_rng_state()
    made = HuscfGan(*(lambda *_, own=own: own for own in networks), 5, weight_std=None)
    assert [*made.build_networks(SHAPE).values()] == [*networks]
    assert torch.equal(torch.get_rng_state(), stream)
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[k]) for k, value in network.state_dict().items())
        assert all(module.training for module in network.modules())
