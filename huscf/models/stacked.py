"""The batches of several clients through shared blocks at once, each normalised on its own."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

#: Layers that treat every sample alone and draw no random numbers.
_SAMPLEWISE = (
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.GELU,
    nn.GroupNorm,
    nn.Identity,
    nn.LeakyReLU,
    nn.Linear,
    nn.ReLU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def can_stack(blocks: Iterable[nn.Module]) -> bool:
    """Return whether these blocks may run several clients' batches at once.

    True only for sequences of layers that are known to treat every sample alone, and of batch
    norms in training mode. Subclasses and parametrised layers may do anything, so they do not
    count as known.
    """
    return all(
        type(layer) in _SAMPLEWISE
        or (isinstance(layer, _NORMS) and layer.training and _keeps_statistics(layer))
        for layer in _layers(blocks)
    )


def run_stacked(blocks: Iterable[nn.Module], inputs: Tensor) -> Tensor:
    """Pass the batches of K clients through consecutive blocks, as if one after the other.

    Outputs, gradients and running statistics equal those of K separate passes in this order, to
    rounding. Clients stand side by side along the second dimension, so that a batch norm over
    K * C channels of the same memory normalises each with its own statistics.

    Args:
        blocks: Consecutive blocks; where K > 1 such that can_stack holds.
        inputs: (B, K, ...).

    Returns:
        (B, K, ...).
    """
    count = inputs.shape[1]
    if count == 1:
        values = inputs.squeeze(1)
        for block in blocks:
            values = block(values)
        return values.unsqueeze(1)
    values = inputs.flatten(0, 1)
    for layer in _layers(blocks):
        if isinstance(layer, _BatchNorm):
            values = _normalize_each(layer, values, count)
        else:
            values = layer(values)
    return values.unflatten(0, (-1, count))


def _layers(blocks: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for block in blocks:
        if type(block) is nn.Sequential:
            yield from _layers(block)
        else:
            yield block


def _keeps_statistics(norm: _BatchNorm) -> bool:
    known = type(norm) in _NORMS
    return known and norm.track_running_stats and norm.momentum is not None


def _normalize_each(norm: _BatchNorm, values: Tensor, count: int) -> Tensor:
    """Apply a batch norm to (B * count, C, ...), the clients being the faster index."""
    side_by_side = values.reshape(-1, count * values.shape[1], *values.shape[2:])
    means, variances = torch.zeros(2, side_by_side.shape[1], device=values.device).unbind()
    normalized = functional.batch_norm(
        side_by_side,
        means,
        variances,
        None if norm.weight is None else norm.weight.repeat(count),
        None if norm.bias is None else norm.bias.repeat(count),
        training=True,
        momentum=1.0,
        eps=norm.eps,
    )
    _follow(norm, means.view(count, -1), variances.view(count, -1))
    return normalized.view_as(values)


@torch.no_grad()
def _follow(norm: _BatchNorm, means: Tensor, variances: Tensor) -> None:
    """Update running statistics by (count, C) batch statistics, one client after the other."""
    momentum, count = norm.momentum, len(means)
    assert momentum is not None
    shares = [momentum * (1 - momentum) ** (count - 1 - k) for k in range(count)]
    weights = torch.tensor(shares, dtype=means.dtype, device=means.device)
    for running, batch in ((norm.running_mean, means), (norm.running_var, variances)):
        assert running is not None
        running.mul_((1 - momentum) ** count).add_(weights @ batch)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(count)
