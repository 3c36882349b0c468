"""Gradients of single samples: their norms and weighted sums, layer by layer, without a loop.

A layer's gradient for one sample is a sum over positions of outer products, b_l a_l^T, of what
entered it and of the gradient at its output. Its norm follows from these without the gradient
itself ever being made of large layers (Goodfellow 2015, arXiv:1510.01799; for convolutions
Bu, Mao and Xu 2022, arXiv:2205.10683); the weighted sum over samples is one product.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..errors import HuscfError


class Factors(NamedTuple):
    """One parameter's gradients of R samples: those of sample r are sum over l of b_l a_l^T.

    Args:
        a: (R, L, m).
        b: (R, L, n); m * n numbers are the parameter's.
    """

    a: Tensor
    b: Tensor


@dataclass
class LayerCall:
    """One call of a layer that has parameters of its own.

    Args:
        layer: The layer.
        inputs: What entered, (R, ...) each.
        output: What left, (R, ...), in the party's graph.
        gradient: At the output, once the party has gone back.
    """

    layer: nn.Module
    inputs: tuple[Tensor, ...]
    output: Tensor
    gradient: Tensor | None = None


@contextmanager
def note_layers(modules: Iterable[nn.Module]) -> Iterator[list[LayerCall]]:
    """Note the calls of all layers with parameters below some modules.

    Raises:
        HuscfError: For layers that take or give anything but tensors.
    """
    calls: list[LayerCall] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], others: Any, output: Any) -> Tensor:
        are_tensors = all(isinstance(each, Tensor) for each in (*inputs, output))
        if others or not are_tensors:
            raise HuscfError(
                f"privacy: {type(layer).__name__} takes or gives other things than tensors, so "
                "that gradients of single samples are not known: use another layer"
            )
        calls.append(LayerCall(layer, tuple(each.detach() for each in inputs), output))
        return output.clone()  # what follows may work in place

    layers = {id(layer): layer for module in modules for layer in find_layers(module)}
    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers.values()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def find_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules that have parameters of their own, each with all below it."""
    if any(parameter is not None for parameter in module._parameters.values()):
        yield module
        return
    for child in module.children():
        yield from find_layers(child)


@torch.no_grad()
def square_norms(calls: Sequence[LayerCall], num_samples: int) -> Tensor:
    """Return every sample's squared norm over the parameters of all calls, (R,) float32.

    Args:
        calls: Those that one party has gone back through, of the same samples.
        num_samples: R.
    """
    factors: dict[Tensor, list[Factors]] = {}
    for call in calls:
        with torch.autocast(call.output.device.type, enabled=False):
            for parameter, found in _find_rule(call.layer)(call).items():
                if parameter.requires_grad:
                    factors.setdefault(parameter, []).append(found)
    total = torch.zeros(num_samples)
    for each in factors.values():
        square = _square(*_join(each))
        total = total.to(square) + square
    return total


@torch.no_grad()
def sum_weighted(calls: Sequence[LayerCall], weights: Tensor) -> dict[nn.Parameter, Tensor]:
    """Return the sum over samples of their gradients, each by its weight.

    Args:
        calls: As of `square_norms`.
        weights: (R,).
    """
    sums: dict[Any, Tensor] = {}
    for call in calls:
        for parameter, found in _sum_call(call, weights).items():
            known = sums.get(parameter)
            sums[parameter] = found if known is None else known + found
    return sums


def _join(each: Sequence[Factors]) -> Factors:
    """Return one parameter's factors over all calls of its layer."""
    if len(each) == 1:
        return each[0]
    if len({(a.shape[2], b.shape[2]) for a, b in each}) > 1:  # inputs were of several sizes
        each = [_vectors((b.transpose(1, 2) @ a).flatten(1)) for a, b in each]
    return Factors(*(torch.cat(parts, 1) for parts in zip(*each, strict=True)))


def _is_short(length: int, m: int, n: int) -> bool:
    """Return whether products of positions cost less than the m * n numbers of a gradient."""
    return length * (m + n) < m * n


def _square(a: Tensor, b: Tensor) -> Tensor:
    """Return |sum over l of b_l a_l^T|^2 of every sample, (R,), the cheaper way."""
    (_, length, m), n = a.shape, b.shape[2]
    if length == 1:
        return a.square().sum((1, 2)) * b.square().sum((1, 2))
    if _is_short(length, m, n):
        products = (a @ a.transpose(1, 2)) * (b @ b.transpose(1, 2))
        return products.sum((1, 2)).clamp(min=0)
    return torch.linalg.vector_norm(b.transpose(1, 2) @ a, dim=(1, 2)).square()


Rule = Callable[[LayerCall], dict[Tensor, Factors]]


def _find_rule(layer: nn.Module) -> Rule:
    if isinstance(layer, _ConvNd) and not _is_plain(layer):
        return _factor_any
    if type(layer) is nn.Embedding and (layer.max_norm is not None or layer.scale_grad_by_freq):
        raise HuscfError(
            "privacy: an Embedding with max_norm or scale_grad_by_freq treats the samples of a "
            "batch together: leave these out"
        )
    return _RULES.get(type(layer), _factor_any)


def _is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is one of PyTorch's convolutions, padded with zeros."""
    if _RULES.get(type(layer)) is not _factor_convolution:
        return False
    assert isinstance(layer, _ConvNd)
    return layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def _read(call: LayerCall) -> tuple[Tensor, Tensor]:
    """Return what entered a call, and the gradient at what left it, in full precision."""
    assert call.gradient is not None
    return _widen(call.inputs[0]), _widen(call.gradient)


def _widen(values: Tensor) -> Tensor:
    """Return numbers in full precision, where they are half of it; others as they are."""
    is_half = values.dtype in (torch.float16, torch.bfloat16)
    return values.float() if is_half else values


def _vectors(values: Tensor) -> Factors:
    """Return the factors of a parameter whose gradients are known, (R, n)."""
    return Factors(values.new_ones(len(values), 1, 1), values.unsqueeze(1))


def _factor_linear(call: LayerCall) -> dict[Tensor, Factors]:
    layer, (given, gradient) = call.layer, _read(call)
    assert isinstance(layer, nn.Linear)
    a = given.reshape(len(given), -1, given.shape[-1])
    b = gradient.reshape(len(given), -1, gradient.shape[-1])
    found: dict[Tensor, Factors] = {layer.weight: Factors(a, b)}
    if layer.bias is not None:
        found[layer.bias] = _vectors(b.sum(1))
    return found


def _factor_convolution(call: LayerCall) -> dict[Tensor, Factors]:
    layer, (given, gradient) = call.layer, _read(call)
    assert isinstance(layer, _ConvNd)
    is_transposed = isinstance(layer, _ConvTransposeNd)
    wide, narrow = (gradient, given) if is_transposed else (given, gradient)
    length, n = narrow[0, 0].numel(), narrow.shape[1]
    is_flat = given.ndim == 4 and layer.groups == 1
    found: dict[Tensor, Factors] = {}
    if is_flat and _is_short(length, layer.weight.numel() // n, n):
        settings: Any = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        a, b = functional.unfold(wide, *settings), narrow.flatten(2)
        found[layer.weight] = Factors(a.transpose(1, 2), b.transpose(1, 2))
    else:
        found[layer.weight] = _vectors(_differentiate_each(layer, given, gradient))
    if layer.bias is not None:
        found[layer.bias] = _vectors(gradient.flatten(2).sum(2))
    return found


def _differentiate_each(layer: _ConvNd, given: Tensor, gradient: Tensor) -> Tensor:
    """Return every sample's gradient at the weight, (R, n): each sample is a group of its own."""
    count = len(given)
    weight = layer.weight.expand(count, *layer.weight.shape).flatten(0, 1)
    beside = [each.reshape(1, -1, *each.shape[2:]) for each in (gradient, given)]
    return _go_back(layer, beside[0], beside[1], weight, count)[0].view(count, -1)


def _factor_embedding(call: LayerCall) -> dict[Tensor, Factors]:
    layer, (ids, gradient) = call.layer, _read(call)
    assert isinstance(layer, nn.Embedding)
    ids = ids.reshape(len(ids), -1)
    rows = functional.one_hot(ids, layer.num_embeddings).to(gradient.dtype)
    if layer.padding_idx is not None:
        rows = rows * (ids != layer.padding_idx).unsqueeze(2)
    return {layer.weight: Factors(rows, gradient.reshape(*ids.shape, -1))}


def _factor_group_norm(call: LayerCall) -> dict[Tensor, Factors]:
    layer, (given, gradient) = call.layer, _read(call)
    assert isinstance(layer, nn.GroupNorm)
    plain = functional.group_norm(given, layer.num_groups, eps=layer.eps)
    products = (plain * gradient, gradient)
    sums = [_vectors(each.reshape(*each.shape[:2], -1).sum(2)) for each in products]
    pairs = zip((layer.weight, layer.bias), sums, strict=True)
    return {parameter: each for parameter, each in pairs if parameter is not None}


def _factor_any(call: LayerCall) -> dict[Tensor, Factors]:
    """Return the gradients of any layer that treats its samples alone, by vmap."""
    layer = call.layer
    assert call.gradient is not None
    gradient = _widen(call.gradient)
    inputs = [_widen(each) for each in call.inputs]
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def go_back(at_output: Tensor, *each: Tensor) -> dict[str, Tensor]:
        def run(values: dict[str, Tensor]) -> Tensor:
            return functional_call(layer, values, tuple(x.unsqueeze(0) for x in each)).squeeze(0)

        return vjp(run, parameters)[1](at_output)[0]

    found = vmap(go_back)(gradient, *inputs)
    named = dict(layer.named_parameters())
    return {named[name]: _vectors(each.flatten(1)) for name, each in found.items()}


_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _factor_linear,
    nn.Conv1d: _factor_convolution,
    nn.Conv2d: _factor_convolution,
    nn.Conv3d: _factor_convolution,
    nn.ConvTranspose1d: _factor_convolution,
    nn.ConvTranspose2d: _factor_convolution,
    nn.ConvTranspose3d: _factor_convolution,
    nn.Embedding: _factor_embedding,
    nn.GroupNorm: _factor_group_norm,
}


def _sum_call(call: LayerCall, weights: Tensor) -> dict[Tensor, Tensor]:
    """Return the weighted sum of one call: its layer's gradient at weighted gradients."""
    layer = call.layer
    assert call.gradient is not None
    gradient = _widen(call.gradient)
    gradient = gradient * weights.to(gradient).view(-1, *[1] * (gradient.ndim - 1))
    parameters = [p for p in layer.parameters() if p.requires_grad]
    if not parameters:
        return {}
    inputs = [_widen(each) for each in call.inputs]
    with torch.autocast(gradient.device.type, enabled=False):
        if _is_plain(layer):
            assert isinstance(layer, _ConvNd)
            own = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
            found = _go_back(layer, gradient, inputs[0], layer.weight)
            return {p: g for p, g in zip(own, found, strict=False) if p.requires_grad}
        with torch.enable_grad():
            output = layer(*inputs)
        sums = torch.autograd.grad(output, parameters, gradient)
    return dict(zip(parameters, sums, strict=True))


def _go_back(
    layer: _ConvNd, gradient: Tensor, given: Tensor, weight: Tensor, times: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the gradients at weight and bias, without running the layer again.

    Args:
        layer: The layer.
        gradient: At its output.
        given: What entered it.
        weight: Its own, or as many beside each other as there are.
        times: How many.
    """
    _, at_weight, at_bias = torch.ops.aten.convolution_backward(
        gradient,
        given,
        weight,
        [gradient.shape[1]],
        layer.stride,
        layer.padding,
        layer.dilation,
        isinstance(layer, _ConvTransposeNd),
        layer.output_padding,
        times * layer.groups,
        [False, True, times == 1],
    )
    return at_weight, at_bias
