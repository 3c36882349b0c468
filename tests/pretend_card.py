"""A second device without any hardware, on which values are real and mixing is refused.

A CardTensor says that it is on device "meta" and keeps its value in a tensor on the CPU. Unlike
fake tensors, which cannot go backwards on a device that PyTorch was built without, autograd runs
through it, and values come back by `.cpu()` and `.item()` as from a card. What one refuses is
refused: operands on both devices, but for scalars, indices, and copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

CARD = torch.device("meta")

aten = torch.ops.aten
#: Operators that take tensors of both devices on a card too.
MIXING = {aten.copy_, aten._foreach_copy_, aten._copy_from}
INDEXING = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}


class MixedDevicesError(RuntimeError):
    """Tensors of both devices met in one operator."""


class CardTensor(Tensor):
    """A tensor on the card; `value` is on the CPU."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "CardTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=CARD,
            requires_grad=False,
        )
        made.value = value.detach()
        return made

    @property
    def data(self) -> "CardTensor":
        return self.detach()

    @data.setter
    def data(self, other: "CardTensor") -> None:
        if not isinstance(other, CardTensor):
            raise MixedDevicesError("a parameter on the card is given data on the CPU")
        self.value = other.value

    def tolist(self) -> list:
        return self.value.tolist()  # PyTorch's own takes no subclass

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"CardTensor({self.value})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Card(TorchDispatchMode):
    """Makes tensors that are asked for on the card, or moved there."""

    def __enter__(self):
        self._from_numbers, self._autocast = FromNumbers(), torch.autocast
        # Nothing is cast on this device, which autocast does not know.
        torch.autocast = lambda kind, *a, **k: self._autocast(kind.replace("meta", "cpu"), *a, **k)
        self._from_numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._from_numbers.__exit__(*error)
        torch.autocast = self._autocast

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class FromNumbers(TorchFunctionMode):
    """Makes tensors of Python's numbers, which PyTorch puts on a device past any dispatch."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func not in (torch.tensor, torch.as_tensor) or device is None:
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": "cpu"})
        return CardTensor(made) if torch.device(device) == CARD else made


def run(func, args, kwargs):
    """Run an operator on the values, as a card would run it or refuse it."""
    operands = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    on_card = any(isinstance(tensor, CardTensor) for tensor in operands)
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        on_card = torch.device(device) == CARD
    elif on_card and func.overloadpacket not in MIXING:
        check_devices(func, args, operands)
    plain = tree_map_only(CardTensor, lambda tensor: tensor.value, (args, kwargs))
    with no_dispatch():
        result = func(*plain[0], **plain[1])
    if not on_card:
        return result
    if func.overloadpacket is aten._local_scalar_dense:
        return result
    wrapped = tree_map_only(Tensor, CardTensor, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


@contextmanager
def no_dispatch() -> Iterator[None]:
    guard = torch._C._DisableTorchDispatch()
    try:
        yield
    finally:
        del guard


def check_devices(func, args, operands) -> None:
    """Raise where a tensor of more than one number is on the CPU beside those on the card."""
    allowed = set()
    if func.overloadpacket in INDEXING and isinstance(args[0], CardTensor):
        allowed = {id(index) for index in args[1] if index is not None}
    for tensor in operands:
        if not isinstance(tensor, CardTensor) and tensor.dim() and id(tensor) not in allowed:
            raise MixedDevicesError(f"{func}: {tuple(tensor.shape)} on the CPU beside the card")


def move(module: nn.Module) -> None:
    """Put all parameters and buffers on the card; who shared memory shares it there."""
    known: dict[int, CardTensor] = {}

    def convert(tensor: Tensor) -> CardTensor:
        if id(tensor) not in known:
            made = CardTensor(tensor.detach())
            is_parameter = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if is_parameter else made
        return known[id(tensor)]

    for each in module.modules():
        for held in (each._parameters, each._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = convert(tensor)
