"""Norms and weighted sums of single samples' gradients are those of passes of their own."""

import pytest
import torch
from torch import nn

from huscf.errors import HuscfError
from huscf.parties.sample_gradients import note_layers, square_norms, sum_weighted

ROWS = 5


class OwnScale(nn.Module):
    """A layer of a user's, with parameters of its own and a layer below them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.linear = nn.Linear(4, 3)

    def forward(self, values):
        return self.linear(values * self.scale).sin()


class Twice(nn.Module):
    """Calls one convolution at two sizes, and works in place behind it."""

    def __init__(self, channels=2):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, values):
        first = torch.relu_(self.convolution(values))
        return self.convolution(first[:, :, ::3, ::3]).flatten(1).sum(1) + first.flatten(1).sum(1)


def maps(channels, *sizes):
    stream = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, channels, *sizes, generator=stream, dtype=torch.float64)


IDS = torch.tensor([[1, 1, 0], [2, 3, 2], [0, 0, 0], [4, 1, 4], [3, 3, 1]])

CASES = {
    "linear": (lambda: nn.Linear(4, 3), maps(4)),
    "linear of positions": (lambda: nn.Linear(4, 30, bias=False), maps(3, 4)),
    "convolution, long": (lambda: nn.Conv2d(2, 3, 3, padding=1), maps(2, 6, 6)),
    "convolution, short": (lambda: nn.Conv2d(16, 32, 4, 2, 1), maps(16, 4, 4)),
    "convolution, grouped and dilated": (
        lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        maps(4, 5, 5),
    ),
    "convolution, same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), maps(2, 5, 5)),
    "convolution, reflected": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        maps(2, 5, 5),
    ),
    "convolution of series": (lambda: nn.Conv1d(3, 4, 3, 2, bias=False), maps(3, 9)),
    "transposed, long": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), maps(2, 5, 5)),
    "transposed, short": (lambda: nn.ConvTranspose2d(32, 16, 4, 2, 1), maps(32, 2, 2)),
    "embedding": (lambda: nn.Embedding(5, 7, padding_idx=3), IDS),
    "embedding of one": (lambda: nn.Embedding(5, 7), IDS[:, 0]),
    "group norm": (lambda: nn.GroupNorm(2, 4), maps(4, 3, 3)),
    "layer norm": (lambda: nn.LayerNorm(6), maps(3, 6)),
    "own layer": (OwnScale, maps(4)),
    "one layer twice": (Twice, maps(2, 6, 6)),
    "one wide layer twice": (lambda: Twice(32), maps(32, 6, 6)),
    "several": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Flatten()
        ),
        maps(2, 5, 5),
    ),
}


def single(module, inputs):
    """The gradients of every sample by a backward pass of its own, one vector a sample."""
    rows = []
    for row in range(ROWS):
        loss = module(inputs[row : row + 1]).reshape(1, -1).sin().sum()
        found = torch.autograd.grad(loss, list(module.parameters()))
        rows.append(torch.cat([each.flatten() for each in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_s_samples_have_the_gradients_of_passes_of_their_own(name):
    make, inputs = CASES[name]
    torch.manual_seed(0)
    module = make().double()
    expected = single(module, inputs)
    with note_layers([module]) as calls:
        loss = module(inputs).reshape(ROWS, -1).sin().sum(1).mean()
    outputs = [call.output for call in calls]
    for call, gradient in zip(calls, torch.autograd.grad(loss, outputs), strict=True):
        call.gradient = gradient
    found = ROWS * square_norms(calls, ROWS).sqrt()
    torch.testing.assert_close(found, expected.norm(dim=1), rtol=1e-10, atol=1e-10)
    weights = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    sums = sum_weighted(calls, weights * ROWS)
    total = torch.cat([sums[parameter].flatten() for parameter in module.parameters()])
    assert not total.requires_grad
    torch.testing.assert_close(total, weights @ expected, rtol=1e-10, atol=1e-10)


def test_frozen_parameters_count_nothing():
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    module[0].weight.requires_grad_(False)
    with note_layers([module]) as calls:
        loss = module(maps(4)).sum()
    for call, gradient in zip(
        calls, torch.autograd.grad(loss, [call.output for call in calls]), strict=True
    ):
        call.gradient = gradient
    assert module[0].weight not in sum_weighted(calls, torch.ones(ROWS))
    without = square_norms(calls, ROWS)
    module[0].weight.requires_grad_(True)
    assert (square_norms(calls, ROWS) > without).all()


def test_layers_are_noted_only_meanwhile():
    module = nn.Linear(4, 3)
    with note_layers([module, module]) as calls:
        module(torch.randn(ROWS, 4))
    module(torch.randn(ROWS, 4))
    assert len(calls) == 1 and not module._forward_hooks


@pytest.mark.parametrize(
    ("module", "run"),
    [
        (nn.LSTM(4, 3), lambda module: module(torch.randn(ROWS, 2, 4))),
        (OwnScale(), lambda module: module(values=torch.randn(ROWS, 4))),
    ],
)
def test_layers_whose_samples_cannot_be_told_apart_are_refused(module, run):
    with note_layers([module]), pytest.raises(HuscfError, match="other things than tensors"):
        run(module)


def test_embeddings_that_look_at_the_whole_batch_are_refused():
    module = nn.Embedding(5, 7, scale_grad_by_freq=True)
    with note_layers([module]) as calls:
        loss = module(IDS).sum()
    (calls[0].gradient,) = torch.autograd.grad(loss, [calls[0].output])
    with pytest.raises(HuscfError, match="scale_grad_by_freq"):
        square_norms(calls, ROWS)
