"""How each kind of layer runs the batches of several clients at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ...models import SqueezeLogit
from .norm_stats import NormStats

#: Elements from which on a feature map of one client is laid out with channels last.
LARGE_MAP = 2**16

#: Input times output channels up to which separate layers run as one grouped convolution.
NARROW_CONVOLUTION = 1024
NARROW_TRANSPOSED = 256

#: Channels of one client that fill a processor's vectors: convolutions between multiples of it run
#: as one up to twice the product, and in the usual layout.
VECTOR_CHANNELS = 16

#: Weights up to which separate linear layers are stacked for one batched product.
SMALL_LINEAR = 2**14

_ELEMENTWISE = (nn.GELU, nn.Identity, nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class Stack:
    """Activations of K clients, in one of two forms.

    A layer that works in place gets a tensor of its own. It must not change the input, which is a
    leaf, and changing a view in place makes autograd copy.
    """

    def __init__(self, values: Tensor, count: int, is_apart: bool = False) -> None:
        self.count = count
        self._values = values
        self._is_apart = is_apart
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


def _change_values(stack: Stack, layers: Layers, _: list[NormStats]) -> None:
    stack.change(layers[0])


def _convolve(stack: Stack, layers: Layers, _: list[NormStats]) -> None:
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
    if isinstance(layer, _ConvTransposeNd):
        limit = NARROW_TRANSPOSED
    else:
        limit = NARROW_CONVOLUTION * (2 if _fills_vectors(layer) else 1)
    return is_plain and layer.in_channels * layer.out_channels <= limit


def _fills_vectors(layer: _ConvNd) -> bool:
    return layer.in_channels % VECTOR_CHANNELS == 0 == layer.out_channels % VECTOR_CHANNELS


def _convolve_grouped(layers: Layers, values: Tensor) -> Tensor:
    """Apply K layers to (B, K * C, ...) by one convolution of K groups."""
    layer, count = layers[0], len(layers)
    assert isinstance(layer, _ConvNd)
    weight = torch.cat([each.weight for each in layers])  # type: ignore[misc]
    bias = torch.cat([each.bias for each in layers])  # type: ignore[misc]
    is_transposed = isinstance(layer, _ConvTransposeNd)
    if values.ndim == 4 and not is_transposed and not _fills_vectors(layer):
        values = values.contiguous(memory_format=torch.channels_last)
    names = ("stride", "padding", "dilation")
    settings = {name: getattr(layer, name) for name in names}
    if is_transposed:
        settings["output_padding"] = layer.output_padding
    outputs = _FUNCTIONS[type(layer)](values, weight, bias, groups=count, **settings)
    return outputs.contiguous()


_FUNCTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
}


def _multiply(stack: Stack, layers: Layers, _: list[NormStats]) -> None:
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


def _normalize(stack: Stack, layers: Layers, gathered: list[NormStats]) -> None:
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
        gathered.append(NormStats(layers, *each))  # type: ignore[arg-type]
    stack.set_beside(normalized)


def _normalize_groups(stack: Stack, layers: Layers, _: list[NormStats]) -> None:
    norm = layers[0]
    assert isinstance(norm, nn.GroupNorm)
    if stack.count == 1 or norm is layers[1]:
        stack.set_apart(norm(stack.apart()))
        return
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


def _look_up(stack: Stack, layers: Layers, _: list[NormStats]) -> None:
    labels = stack.by_client()
    stack.set_apart(look_up_each(layers, labels).flatten(0, 1))  # type: ignore[arg-type]


def look_up_each(embeddings: Sequence[nn.Embedding], labels: Tensor) -> Tensor:
    """Look labels, (B, K, ...) int64, up in K clients' own embeddings; returns (B, K, ..., D)."""
    if len(embeddings) == 1 or embeddings[0] is embeddings[1]:
        return embeddings[0](labels)
    count = embeddings[0].num_embeddings
    offsets = count * torch.arange(len(embeddings), device=labels.device)
    table = torch.cat([embedding.weight for embedding in embeddings])
    return functional.embedding(labels + offsets.view(-1, *[1] * (labels.ndim - 2)), table)


def _reshape(stack: Stack, layers: Layers, _: list[NormStats]) -> None:
    stack.set_apart(layers[0](stack.apart()), is_fresh=False)


RULES: dict[type[nn.Module], Callable[[Stack, Layers, list[NormStats]], None]] = {
    **dict.fromkeys((*_ELEMENTWISE, nn.Upsample), _change_values),
    **dict.fromkeys(_CONVOLUTIONS, _convolve),
    **dict.fromkeys(_NORMS, _normalize),
    nn.Embedding: _look_up,
    nn.GroupNorm: _normalize_groups,
    nn.Linear: _multiply,
    **dict.fromkeys((nn.Flatten, nn.Unflatten, SqueezeLogit), _reshape),
}


def is_known(layer: nn.Module) -> bool:
    """Return whether a layer has a rule, by which it treats every sample alone."""
    if isinstance(layer, _BatchNorm):
        is_samplewise = layer.track_running_stats and layer.momentum is not None
    elif isinstance(layer, nn.Embedding):
        changes = layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse
        is_samplewise = layer.padding_idx is None and not changes
    elif isinstance(layer, nn.Flatten):
        is_samplewise = layer.start_dim >= 1
    elif isinstance(layer, nn.Unflatten):
        is_samplewise = isinstance(layer.dim, int) and layer.dim >= 1
    else:
        is_samplewise = True
    return type(layer) in RULES and is_samplewise
