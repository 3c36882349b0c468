"""A block's parameters, buffers and optimiser state as named tensors, to send and to take over."""

import copy
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..models import find_spectral_norms, renew_spectral_norms

ModuleT = TypeVar("ModuleT", bound=nn.Module)

#: How the names of an optimiser's tensors begin; the parameter's name stands at the end.
_MOMENT = "moment."


def read_block(block: nn.Module, optimizer: Optimizer | None = None) -> dict[str, Tensor]:
    """Return a block's tensors, detached but not copied.

    Args:
        block: The block.
        optimizer: Whose state of the block's parameters is added; None leaves it out.
    """
    state = {name: tensor.detach() for name, tensor in block.named_parameters()}
    state.update(block.named_buffers())
    if optimizer is not None:
        for name, parameter in block.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"{_MOMENT}{key}.{name}"] = value
    return state


@torch.no_grad()
def write_block(
    block: nn.Module,
    state: Mapping[str, Tensor],
    optimizer: Optimizer | None = None,
    shares: bool = False,
) -> None:
    """Write what `read_block` returned elsewhere into a block, and into an optimiser's state.

    Args:
        block: Changed in place.
        state: Named tensors; names that it lacks keep their values.
        optimizer: Gets the state's moments; None leaves them out.
        shares: Whether to keep the state's own memory where that can be; its holder must call
            `Party.own_memory` before it writes there.
    """
    parameters = dict(block.named_parameters())
    own = {**parameters, **dict(block.named_buffers())}
    for name, tensor in own.items():
        if name not in state:
            continue
        if not shares:
            tensor.copy_(state[name])
        elif _is_alike(tensor, state[name]):
            tensor.data = state[name]
        else:  # never in place: others may share what is there
            tensor.data = torch.empty_like(tensor).copy_(state[name])
    if optimizer is None:
        return
    for name, value in state.items():
        if name.startswith(_MOMENT):
            key, _, owner = name.removeprefix(_MOMENT).partition(".")
            optimizer.state[parameters[owner]][key] = value if shares else value.clone()


def copy_sharing(block: ModuleT) -> ModuleT:
    """Return a deep copy that shares the memory of the block's parameters and buffers."""
    memo: dict[int, object] = {id(buffer): buffer.detach() for buffer in block.buffers()}
    for parameter in block.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    return copy.deepcopy(block, memo)


def free_memory(tensors: Iterable[Tensor], device: torch.device | None = None) -> None:
    """Let go of tensors' memory: they keep shape and type, and must be given new to be used.

    Until then floats read as NaN, and writing into them raises an error.

    Args:
        tensors: Changed in place.
        device: Where they seem to be; None leaves them where they are.
    """
    for tensor in tensors:
        tensor.data = _make_hole(tensor.dtype, device or tensor.device).expand(tensor.shape)


def is_freed(tensor: Tensor) -> bool:
    """Return whether a tensor has lost its memory to `free_memory`."""
    return tensor.data_ptr() == _make_hole(tensor.dtype, tensor.device).data_ptr()


@cache
def _make_hole(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the one number that all freed tensors of a type show."""
    value = math.nan if dtype.is_floating_point or dtype.is_complex else 1
    return torch.full((), value, dtype=dtype, device=device)


def _is_alike(one: Tensor, other: Tensor) -> bool:
    kinds = [(t.shape, t.stride(), t.dtype, t.device) for t in (one, other)]
    return kinds[0] == kinds[1]


def split_moments(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Divide a block's state into its own tensors and those of its optimiser."""
    moments = {name: value for name, value in state.items() if name.startswith(_MOMENT)}
    return {n: value for n, value in state.items() if n not in moments}, moments


def renew_norms(block: nn.Module) -> None:
    """Estimate spectral norms anew for weights that were averaged."""
    renew_spectral_norms(find_spectral_norms(block))


def copy_moments(optimizer: Optimizer, cloned_from: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Give every cloned parameter a copy of the state of the one that it was cloned from.

    Args:
        optimizer: Changed in place; pairs that it does not hold are passed over.
        cloned_from: Clone -> original.
    """
    for clone, original in cloned_from.items():
        if original in optimizer.state:
            optimizer.state[clone] = {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in optimizer.state[original].items()
            }


def forget_moments(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Drop the state of these parameters, so that their next step is like a first one."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)
