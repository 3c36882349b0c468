"""Blocks of several clients at once equal separate passes, one client after the other."""

import copy

import pytest
import torch
from torch import nn

from huscf.engines.stacked.run_stacked import can_stack, run_stacked
from huscf.models import ConditionalDiscriminator, Network, SqueezeLogit, UNet, run_blocks
from huscf.models.conditional_discriminator import DiscriminatorStem, MinibatchStd
from tests.conftest import SHAPE


def run_columns(columns, inputs, labels=None, deferred=None):
    """Run lists of blocks on (B, K, ...)."""
    carry = {"x": inputs} | ({} if labels is None else {"labels": labels})
    return run_stacked([dict(enumerate(blocks)) for blocks in columns], carry, deferred)["x"]


def test_layers_that_may_mix_samples_are_not_stacked():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
    mixing = (
        nn.Dropout(),
        nn.Flatten(0),
        nn.Unflatten(0, (1, 2)),
        nn.BatchNorm1d(2, momentum=None),
    )
    for layer in (*mixing, spectral):
        assert not can_stack([nn.Sequential(nn.Linear(2, 2), layer)])
    assert can_stack([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())])


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_layers_with_hooks_are_not_stacked(register):
    for hooked in (0, 1):
        block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        assert can_stack([block])
        getattr([block, block[0]][hooked], register)(lambda *_: None)
        assert not can_stack([block])


class Tripled(DiscriminatorStem):
    """Joins otherwise than its base, which the look-up for several clients does not know."""

    def join(self, samples, labels):
        return super().join(3 * samples, labels)


class Shifted(DiscriminatorStem):
    def forward(self, samples, labels):
        return super().forward(samples, labels) + 1


def test_a_stems_own_join_is_used_for_several_clients_too():
    stems = [Tripled(SHAPE, nn.Sequential(nn.Conv2d(2, 4, 3))) for _ in range(2)]
    samples, labels = torch.randn(5, 2, 1, 8, 8), torch.randint(0, 3, (5, 2))
    assert can_stack(stems)
    outputs = run_columns([[stem] for stem in stems], samples, labels)
    for which, stem in enumerate(stems):
        torch.testing.assert_close(outputs[:, which], stem(samples[:, which], labels[:, which]))


def test_a_stem_with_a_forward_of_its_own_is_not_stacked():
    layers = nn.Sequential(nn.Conv2d(2, 4, 3))
    assert can_stack([DiscriminatorStem(SHAPE, layers)])
    assert not can_stack([Shifted(SHAPE, layers)])


def test_small_linear_layers_run_on_rows_of_tokens():
    layers = [nn.Linear(4, 3) for _ in range(2)]
    tokens = torch.randn(5, 2, 6, 4)
    outputs = run_columns([[layer] for layer in layers], tokens)
    assert outputs.shape == (5, 2, 6, 3)
    for which, layer in enumerate(layers):
        torch.testing.assert_close(outputs[:, which], layer(tokens[:, which]))


def test_batch_norms_in_evaluation_use_running_statistics():
    norms = [nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2).eval()]
    norms[1].running_mean += 3
    inputs, before = torch.randn(5, 2, 2), copy.deepcopy(norms)
    outputs = run_columns([[norm] for norm in norms], inputs)
    for which, norm in enumerate(before):
        torch.testing.assert_close(outputs[:, which], norm(inputs[:, which]))
        assert torch.equal(norm.running_mean, norms[which].running_mean)


def example_blocks():
    convolution = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    grown = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.Tanh())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(100, 6), nn.BatchNorm1d(6, affine=False))
    last = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.Linear(6, 1), SqueezeLogit())
    return [nn.LeakyReLU(0.1, inplace=True), convolution, grown, flat, last]


@pytest.mark.parametrize("shared", [True, False])
def test_stacked_blocks_equal_separate_passes_in_order(shared):
    stream = torch.Generator().manual_seed(0)
    first = example_blocks()
    columns = [first if shared else example_blocks() for _ in range(3)]
    separate = copy.deepcopy(columns)
    inputs = torch.randn(4, 3, 2, 5, 5, generator=stream, requires_grad=True)
    assert can_stack(first)
    outputs = run_columns(columns, inputs)
    assert outputs.shape == (4, 3)
    outputs.square().sum().backward()
    for which, blocks in enumerate(separate):
        own = inputs.detach()[:, which].clone().requires_grad_()
        values = own * 1
        for block in blocks:
            values = block(values)
        values.square().sum().backward()
        torch.testing.assert_close(outputs[:, which], values)
        torch.testing.assert_close(inputs.grad[:, which], own.grad, rtol=1e-4, atol=1e-5)
    for one, other in zip(columns, separate, strict=True):
        for block, expected in zip(one, other, strict=True):
            for parameter, wanted in zip(block.parameters(), expected.parameters(), strict=True):
                torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-4, atol=1e-5)
            for buffer, wanted in zip(block.buffers(), expected.buffers(), strict=True):
                torch.testing.assert_close(buffer, wanted)


class OwnForward(nn.Module):
    """Says of itself that it treats every sample alone; norms and a list of layers inside."""

    samplewise = True
    reads = ("x", "labels")
    writes = ("x", "seen")

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.layers = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True)])

    def forward(self, values, labels):
        seen = self.embedding(labels)
        for layer in self.layers:
            values = layer(values)
        return values * seen[:, :, None, None], seen


class Heir(OwnForward):
    """Has a forward of its own, of which the base knows nothing."""

    def forward(self, values, labels):
        return super().forward(values - values.mean(0), labels)


class OwnTensor(OwnForward):
    samplewise = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Drops(OwnForward):
    samplewise = True

    def __init__(self):
        super().__init__()
        self.layers.append(nn.Dropout())


def test_blocks_stack_by_their_own_word_alone():
    assert can_stack([OwnForward()])
    assert not can_stack([Heir()])
    assert not can_stack([OwnTensor()])
    assert not can_stack([Drops()])
    assert can_stack(ConditionalDiscriminator(SHAPE, width=4, minibatch_std=True))
    assert not can_stack([MinibatchStd(4, 3)])  # alone it may read and write anything
    counted = nn.Embedding(5, 3, padding_idx=0)
    assert not can_stack([counted]) and can_stack([nn.Embedding(5, 3)])


def separate_gradients(columns, carry, name):
    """Outputs and gradients of one client after the other, and their columns."""
    columns, found = copy.deepcopy(columns), []
    for which, blocks in enumerate(columns):
        own = {n: t.detach()[:, which].clone() for n, t in carry.items()}
        own["x"].requires_grad_()
        outputs = run_blocks(dict(enumerate(blocks)), {**own, "x": own["x"] * 1})
        outputs[name].square().sum().backward()
        found.append((outputs, own["x"].grad))
    return columns, found


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("make_blocks", ["own", "unet"])
def test_forwards_of_blocks_equal_separate_passes(make_blocks, count, shared):
    def make():
        return [OwnForward()] if make_blocks == "own" else list(UNet(SHAPE, width=16))

    stream = torch.Generator().manual_seed(0)
    first = make()
    columns = [first if shared else make() for _ in range(count)]
    channels = 2 if make_blocks == "own" else SHAPE.channels
    carry = {
        "x": torch.randn(4, count, channels, 8, 8, generator=stream, requires_grad=True),
        "labels": torch.randint(0, 3, (4, count), generator=stream),
        "time": torch.rand(4, count, generator=stream),
    }
    assert can_stack(first)
    separate, expected = separate_gradients(columns, carry, "x")
    outputs = run_stacked([dict(enumerate(blocks)) for blocks in columns], carry)
    outputs["x"].square().sum().backward()
    for which, (wanted, gradient) in enumerate(expected):
        for name, value in wanted.items():
            torch.testing.assert_close(outputs[name][:, which], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(carry["x"].grad[:, which], gradient, rtol=1e-4, atol=1e-4)
    for one, other in zip(columns, separate, strict=True):
        tensors = Network(one).named_parameters()
        for (name, parameter), wanted in zip(tensors, Network(other).parameters(), strict=True):
            # A bias before a norm has gradient zero but for rounding, and weights some hundreds.
            torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-3, atol=1e-3, msg=name)
        for buffer, wanted in zip(Network(one).buffers(), Network(other).buffers(), strict=True):
            torch.testing.assert_close(buffer, wanted)


def test_deferred_statistics_follow_when_asked():
    blocks = [nn.BatchNorm1d(2)]
    deferred = []
    run_columns([blocks] * 2, torch.randn(5, 2, 2) + 1, deferred=deferred)
    assert blocks[0].running_mean.tolist() == [0, 0]
    for statistics in deferred:
        statistics.update_running_stats()
    assert blocks[0].num_batches_tracked == 2
    assert blocks[0].running_mean.abs().min() > 0
