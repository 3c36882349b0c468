import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

from huscf.errors import HuscfError
from huscf.models import (
    ConditionalDiscriminator,
    ConditionalGenerator,
    SampleShape,
    initialize_weights,
    run_blocks,
)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_the_reference_architecture_has_the_published_parameter_counts():
    shape = SampleShape(channels=1, image_size=28, num_classes=10)
    assert count(ConditionalGenerator(shape, 100)) == 2_221_925
    assert count(ConditionalDiscriminator(shape)) == 816_737


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "depth"), [(8, 4), (8, 6), (16, 4), (28, 5), (28, 7), (32, 6), (64, 5), (64, 8)]
)
def test_every_size_depth_and_norm_gives_samples_and_logits(size, depth, channels, norm):
    shape = SampleShape(channels, size, 4)
    generator = ConditionalGenerator(shape, 7, width=8, depth=depth, norm=norm)
    discriminator = ConditionalDiscriminator(shape, width=8, depth=depth, norm=norm)
    labels = torch.tensor([0, 3])
    samples = generator(torch.randn(2, 7), labels)
    assert (len(generator), len(discriminator)) == (depth, depth)
    assert samples.shape == (2, channels, size, size)
    assert samples.abs().max() <= 1
    assert discriminator(samples, labels).shape == (2,)


@pytest.mark.parametrize(("size", "depth"), [(8, 4), (28, 5), (64, 6)])
def test_nearest_upsampling_has_blocks_of_the_same_shapes(size, depth):
    shape = SampleShape(3, size, 4)
    one, other = (
        ConditionalGenerator(shape, 7, width=8, depth=depth, upsampling=way)
        for way in ("transposed", "nearest")
    )
    values = others = torch.randn(2, 7)
    labels = torch.tensor([0, 3])
    for index in range(depth):
        read = (labels,) if index == 0 else ()
        values, others = one[index](values, *read), other[index](others, *read)
        assert values.shape == others.shape
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in other.modules())


@pytest.mark.parametrize("conditioning", ["projection", "both"])
def test_a_projected_label_acts_in_the_last_block(conditioning):
    shape = SampleShape(1, 8, 3)
    network = ConditionalDiscriminator(shape, width=4, depth=4, conditioning=conditioning)
    samples, labels = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    network.eval()
    read = [labels] if conditioning == "both" else []
    features, last = network[1:3](network[0](samples, *read)).flatten(1), network[3]
    # At PyTorch's own scale labels would drown what is learnt.
    assert last.embedding.weight.std() < 1.5 * features.shape[1] ** -0.5
    directions = last.linear.weight + last.embedding.weight
    expected = [
        f @ directions[label] + last.linear.bias[0]
        for f, label in zip(features, labels, strict=True)
    ]
    torch.testing.assert_close(network(samples, labels), torch.stack(expected))


@pytest.mark.parametrize("conditioning", ["plane", "both"])
def test_a_logit_follows_how_much_the_samples_of_its_label_differ(conditioning):
    shape = SampleShape(1, 8, 3)
    options = {"width": 4, "depth": 4, "norm": "none", "conditioning": conditioning}
    varied = ConditionalDiscriminator(shape, **options, minibatch_std=True)
    plain = ConditionalDiscriminator(shape, **options)
    names = {name.replace(".logit.", "."): name for name in varied.state_dict()}
    plain.load_state_dict({name: varied.state_dict()[names[name]] for name in plain.state_dict()})
    samples, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 0, 2, 0, 1])
    features = varied[1:3](varied[0](samples, labels)).detach().numpy()
    linear = varied[3].variety.linear
    extra = torch.zeros(6)
    for label in range(3):
        rows = np.flatnonzero(labels.numpy() == label)
        std = features[rows].std(0, ddof=1) if len(rows) > 1 else np.zeros_like(features[0])
        extra[rows] = linear(torch.tensor(std.mean((1, 2)))).item()
    expected = plain(samples, labels) + extra
    torch.testing.assert_close(varied(samples, labels), expected, rtol=1e-4, atol=1e-3)


def test_samples_that_are_all_alike_have_finite_gradients_of_their_variety():
    network = ConditionalDiscriminator(SampleShape(1, 8, 3), width=4, depth=4, minibatch_std=True)
    samples = torch.ones(4, 1, 8, 8, requires_grad=True)
    network(samples, torch.tensor([0, 0, 1, 2])).sum().backward()
    assert samples.grad.isfinite().all()


def test_blocks_run_one_by_one_equal_the_network():
    network = ConditionalGenerator(SampleShape(1, 8, 3), 5, width=4, depth=4)
    noise, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    blocks = dict(enumerate(network))
    first, second = ({i: blocks[i] for i in indices} for indices in ([0, 1], [2, 3]))
    middle = run_blocks(first, {"x": noise, "labels": labels})
    assert torch.equal(run_blocks(second, middle)["x"], network(noise, labels))


def test_the_label_changes_the_sample():
    network = ConditionalGenerator(SampleShape(1, 8, 3), 5, width=4, depth=4, norm="none")
    initialize_weights(network, 0.02)
    noise = torch.randn(1, 5)
    one, other = network(noise, torch.tensor([0])), network(noise, torch.tensor([1]))
    assert not torch.equal(one, other)


def test_initialisation_sets_the_scale_but_leaves_embeddings_alone():
    network = ConditionalGenerator(SampleShape(1, 28, 10), 100, width=32)
    embedding = network[0].embedding.weight.clone()
    initialize_weights(network, 0.02)
    assert network[0].linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert network[0].linear.bias.abs().max() == 0
    assert torch.equal(network[0].embedding.weight, embedding)


class Positive(nn.Module):
    """A parametrization that cannot be inverted."""

    def forward(self, weight):
        return weight.exp()


def test_initialisation_sets_the_scale_of_parametrised_weights_too():
    torch.manual_seed(0)
    network = nn.Sequential(
        spectral_norm(nn.Linear(40, 80)), weight_norm(nn.Conv2d(8, 16, 3)), nn.Linear(40, 80)
    )
    register_parametrization(network[2], "weight", Positive())
    kept = network[2].weight.detach().clone()
    initialize_weights(network, 0.02)
    drawn = (network[0].parametrizations.weight.original, network[1].weight, network[0].bias)
    scales = [value.std().item() for value in drawn]
    assert scales == pytest.approx([0.02, 0.02, 0], rel=0.05)
    norm = torch.linalg.matrix_norm(network.eval()[0].weight, 2).item()
    assert norm == pytest.approx(1, abs=0.1)
    assert torch.equal(network[2].weight, kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, "multiple of 4"),
        ({"image_size": 28, "depth": 3}, "at least 4"),
        ({"image_size": 64, "depth": 4}, "at least 5"),
        ({"image_size": 28, "width": 0}, "width is 0"),
    ],
)
def test_impossible_sizes_are_named(arguments, message):
    shape = SampleShape(1, arguments.pop("image_size"), 10)
    with pytest.raises(HuscfError, match=message):
        ConditionalGenerator(shape, 10, **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: ConditionalGenerator(s, 5, upsampling="bilinear"), "transposed or nearest"),
        (lambda s: ConditionalDiscriminator(s, conditioning="x"), "plane, projection or both"),
    ],
)
def test_forms_that_are_not_known_are_named(make, message):
    with pytest.raises(HuscfError, match=message):
        make(SampleShape(1, 28, 10))


def test_spectral_norm_bounds_the_last_layer():
    network = ConditionalDiscriminator(SampleShape(1, 8, 3), width=4, depth=4, spectral_norm=True)
    network.train()
    for _ in range(20):
        network(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    assert torch.linalg.matrix_norm(network[3][1].weight, 2).item() == pytest.approx(1, abs=1e-3)
