"""Several clients' batches side by side through their blocks, each client normalised on its own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .layers import LabelledBlock, SqueezeLogit

#: Elements from which on a feature map of one client is laid out with channels last.
LARGE_MAP = 2**16

#: Input times output channels up to which separate layers run as one grouped convolution.
NARROW_CONVOLUTION = 1024
NARROW_TRANSPOSED = 256

#: Weights up to which separate linear layers are stacked for one batched product.
SMALL_LINEAR = 2**14

_ELEMENTWISE = (nn.GELU, nn.Identity, nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class BatchStatistics:
    """Batch statistics of a norm layer that running statistics have yet to follow.

    Args:
        norms: The layer of each of K clients; the same one where it is shared.
        means: (K, C).
        variances: (K, C), unbiased.
    """

    norms: Sequence[_BatchNorm]
    means: Tensor
    variances: Tensor

    @property
    def is_shared(self) -> bool:
        """Whether the clients' layer is one and the same, or there is one client."""
        return len(self.norms) == 1 or self.norms[0] is self.norms[1]

    @torch.no_grad()
    def follow(self) -> None:
        """Update the running statistics, one client after the other."""
        norm, momentum, count = self.norms[0], self.norms[0].momentum, len(self.means)
        assert momentum is not None
        pairs = (("running_mean", self.means), ("running_var", self.variances))
        if not self.is_shared:
            for name, batch in pairs:
                running = [getattr(each, name) for each in self.norms]
                torch._foreach_lerp_(running, list(batch.to(running[0]).unbind()), momentum)
        else:
            shares = [momentum * (1 - momentum) ** (count - 1 - k) for k in range(count)]
            weights = torch.tensor(shares, dtype=self.means.dtype, device=self.means.device)
            for name, batch in pairs:
                mean = (weights[:, None] * batch).sum(0)  # a product would be rounded by autocast
                getattr(norm, name).mul_((1 - momentum) ** count).add_(mean)
        layers = dict.fromkeys(self.norms)
        counters = [each.num_batches_tracked for each in layers]
        known = [counter for counter in counters if counter is not None]
        if known:
            torch._foreach_add_(known, count // len(layers))


def can_stack(blocks: Iterable[nn.Module]) -> bool:
    """Return whether these blocks may run several clients' batches at once.

    True only for layers that are known to treat every sample alone and to draw no random
    numbers, and for batch norms with running statistics. Subclasses, parametrised layers and
    hooks may do anything, so they do not count as known.
    """
    blocks = list(blocks)
    if any(_has_hooks(module) for block in blocks for module in block.modules()):
        return False
    return all(type(layer) in _RULES and _is_samplewise(layer) for layer in _layers(blocks))


def run_stacked(
    columns: Sequence[Sequence[nn.Module]],
    inputs: Tensor,
    labels: Tensor | None = None,
    pending: list[BatchStatistics] | None = None,
) -> Tensor:
    """Pass the batches of K clients through consecutive blocks, as if one after the other.

    Outputs and gradients equal those of K separate passes, to rounding; so do running statistics.

    Args:
        columns: The blocks of each client, for which `can_stack` holds; the same ones where the
            server runs them for all.
        inputs: (B, K, ...).
        labels: (B, K) int64 where the blocks begin with a network's first, else None.
        pending: Gets what running statistics have to follow; None lets them follow at once.

    Returns:
        (B, K, ...).
    """
    count = len(columns)
    if labels is not None:
        inputs = _join([blocks[0] for blocks in columns], inputs, labels)
    stack = _Stack(inputs.squeeze(1) if count == 1 else inputs.flatten(1, 2), count)
    gathered: list[BatchStatistics] = []
    for layers in zip(*map(_layers, columns), strict=True):
        _RULES[type(layers[0])](stack, layers, gathered)
    if pending is None:
        for statistics in gathered:
            statistics.follow()
    else:
        pending += gathered
    return stack.by_client()


def _join(stems: Sequence[nn.Module], inputs: Tensor, labels: Tensor) -> Tensor:
    """Join by the class's `join_each`, unless that is a base's and `join` has been overridden."""
    kinds = type(stems[0]).__mro__
    kind = next(kind for kind in kinds if {"join", "join_each"} & vars(kind).keys())
    assert issubclass(kind, LabelledBlock)
    join_each = kind.join_each if "join_each" in vars(kind) else LabelledBlock.join_each
    return join_each(stems, inputs, labels)  # type: ignore[arg-type]


class _Stack:
    """Activations of K clients, in one of two forms.

    Layers that change values in place get a tensor of their own: of the input, a leaf, they must
    not change any, and changes of views cost autograd copies.
    """

    def __init__(self, values: Tensor, count: int) -> None:
        self.count = count
        self._values = values
        self._is_apart = False
        self._is_fresh = False

    def beside(self) -> Tensor:
        """Return (B, K * C, ...): the clients' channels side by side."""
        if self._is_apart and self.count > 1:
            by_client = self._values.unflatten(0, (-1, self.count))
            self.set_beside(by_client.flatten(1, 2), is_fresh=False)
        return self._values

    def apart(self) -> Tensor:
        """Return (B * K, C, ...): every sample alone."""
        if not self._is_apart and self.count > 1:
            by_client = self._values.unflatten(1, (self.count, -1))
            self.set_apart(by_client.flatten(0, 1), is_fresh=False)
        return self._values

    def by_client(self) -> Tensor:
        """Return (B, K, C, ...)."""
        if self.count == 1:
            return self._values.unsqueeze(1)
        if self._is_apart:
            return self._values.unflatten(0, (-1, self.count))
        return self._values.unflatten(1, (self.count, -1))

    def set_beside(self, values: Tensor, is_fresh: bool = True) -> None:
        """Take over (B, K * C, ...)."""
        self._values, self._is_apart, self._is_fresh = values, False, is_fresh

    def set_apart(self, values: Tensor, is_fresh: bool = True) -> None:
        """Take over (B * K, C, ...)."""
        self._values, self._is_apart, self._is_fresh = values, True, is_fresh

    def change(self, layer: nn.Module) -> None:
        """Apply a layer that treats every value alone."""
        if getattr(layer, "inplace", False) and not self._is_fresh:
            self._values = self._values.clone()
        self._values, self._is_fresh = layer(self._values), True


Layers = Sequence[nn.Module]


def _change_values(stack: _Stack, layers: Layers, _: list[BatchStatistics]) -> None:
    stack.change(layers[0])


def _convolve(stack: _Stack, layers: Layers, _: list[BatchStatistics]) -> None:
    layer = layers[0]
    assert isinstance(layer, _ConvNd)
    if stack.count == 1:
        values = stack.apart()
        if values.ndim == 4 and values.numel() >= LARGE_MAP:
            values = values.contiguous(memory_format=torch.channels_last)
        stack.set_apart(layer(values))
    elif layer is layers[1]:
        stack.set_apart(layer(stack.apart()))
    elif _is_narrow(layer):
        stack.set_beside(_convolve_grouped(layers, stack.beside()))
    else:
        each = stack.by_client().unbind(1)
        stack.set_beside(torch.cat([own(x) for own, x in zip(layers, each, strict=True)], 1))


def _is_narrow(layer: _ConvNd) -> bool:
    is_plain = layer.groups == 1 and layer.padding_mode == "zeros" and layer.bias is not None
    is_transposed = isinstance(layer, _ConvTransposeNd)
    limit = NARROW_TRANSPOSED if is_transposed else NARROW_CONVOLUTION
    return is_plain and layer.in_channels * layer.out_channels <= limit


def _convolve_grouped(layers: Layers, values: Tensor) -> Tensor:
    """Apply K layers to (B, K * C, ...) by one convolution of K groups."""
    layer, count = layers[0], len(layers)
    assert isinstance(layer, _ConvNd)
    weight = torch.cat([each.weight for each in layers])  # type: ignore[misc]
    bias = torch.cat([each.bias for each in layers])  # type: ignore[misc]
    if values.ndim == 4 and not isinstance(layer, _ConvTransposeNd):
        values = values.contiguous(memory_format=torch.channels_last)
    names = ("stride", "padding", "dilation")
    settings = {name: getattr(layer, name) for name in names}
    if isinstance(layer, _ConvTransposeNd):
        settings["output_padding"] = layer.output_padding
    outputs = _FUNCTIONS[type(layer)](values, weight, bias, groups=count, **settings)
    return outputs.contiguous()


_FUNCTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
}


def _multiply(stack: _Stack, layers: Layers, _: list[BatchStatistics]) -> None:
    layer = layers[0]
    assert isinstance(layer, nn.Linear)
    if stack.count == 1 or layer is layers[1]:
        stack.set_apart(layer(stack.apart()))
        return
    each = stack.by_client()
    if layer.weight.numel() > SMALL_LINEAR or each.ndim != 3:
        stack.set_beside(
            torch.cat([own(x) for own, x in zip(layers, each.unbind(1), strict=True)], 1)
        )
        return
    weights = torch.stack([own.weight for own in layers])  # type: ignore[misc]
    product = torch.bmm(each.transpose(0, 1), weights.transpose(1, 2))
    if layer.bias is not None:
        product = product + torch.stack([own.bias for own in layers]).unsqueeze(1)  # type: ignore[misc]
    stack.set_beside(product.transpose(0, 1).flatten(1))


def _normalize(stack: _Stack, layers: Layers, gathered: list[BatchStatistics]) -> None:
    """Normalise (B, K * C, ...) as that many channels, so that each client has its statistics."""
    norm, count, values = layers[0], stack.count, stack.beside()
    assert isinstance(norm, _BatchNorm)
    means: Tensor | None
    variances: Tensor | None
    if norm.training:
        means, variances = torch.zeros(2, values.shape[1], device=values.device).unbind()
    else:
        means, variances = (_gather(layers, name) for name in ("running_mean", "running_var"))
    weight, bias = (_gather(layers, name) for name in ("weight", "bias"))
    normalized = functional.batch_norm(
        values, means, variances, weight, bias, norm.training, momentum=1.0, eps=norm.eps
    )
    if norm.training:
        assert means is not None and variances is not None
        each = (means.view(count, -1), variances.view(count, -1))
        gathered.append(BatchStatistics(layers, *each))  # type: ignore[arg-type]
    stack.set_beside(normalized)


def _normalize_groups(stack: _Stack, layers: Layers, _: list[BatchStatistics]) -> None:
    norm = layers[0]
    assert isinstance(norm, nn.GroupNorm)
    weight, bias = (_gather(layers, name) for name in ("weight", "bias"))
    groups = stack.count * norm.num_groups
    stack.set_beside(functional.group_norm(stack.beside(), groups, weight, bias, norm.eps))


def _gather(layers: Layers, name: str) -> Tensor | None:
    """Return (K * C,) weights or biases of the norms of K clients."""
    first = getattr(layers[0], name)
    if first is None or len(layers) == 1:
        return first
    if layers[1] is layers[0]:
        return first.repeat(len(layers))
    return torch.cat([getattr(layer, name) for layer in layers])


def _reshape(stack: _Stack, layers: Layers, _: list[BatchStatistics]) -> None:
    stack.set_apart(layers[0](stack.apart()), is_fresh=False)


_RULES: dict[type[nn.Module], Callable[[_Stack, Layers, list[BatchStatistics]], None]] = {
    **dict.fromkeys(_ELEMENTWISE, _change_values),
    **dict.fromkeys(_CONVOLUTIONS, _convolve),
    **dict.fromkeys(_NORMS, _normalize),
    nn.GroupNorm: _normalize_groups,
    nn.Linear: _multiply,
    **dict.fromkeys((nn.Flatten, nn.Unflatten, SqueezeLogit), _reshape),
}


def _layers(blocks: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for block in blocks:
        if type(block) is nn.Sequential:
            yield from _layers(block)
        elif isinstance(block, LabelledBlock) and type(block).forward is LabelledBlock.forward:
            yield from _layers(block.layers)
        else:
            yield block


def _has_hooks(module: nn.Module) -> bool:
    ways = ("forward", "forward_pre", "backward", "backward_pre")
    return any(getattr(module, f"_{way}_hooks") for way in ways)


def _is_samplewise(layer: nn.Module) -> bool:
    if isinstance(layer, _BatchNorm):
        return layer.track_running_stats and layer.momentum is not None
    if isinstance(layer, nn.Flatten):
        return layer.start_dim >= 1
    if isinstance(layer, nn.Unflatten):
        return isinstance(layer.dim, int) and layer.dim >= 1
    return True
