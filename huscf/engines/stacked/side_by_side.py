"""Blocks with a forward of their own, run by it for several clients at once."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layer_rules import RULES, Stack, is_known
from .norm_stats import NormStats

_CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)


def is_plain(module: nn.Module) -> bool:
    """Return whether a module is a layer with a rule, or a sequence of such."""
    if type(module) is nn.Sequential:
        return all(map(is_plain, module))
    return is_known(module)


def is_samplewise(module: nn.Module) -> bool:
    """Return whether a module's forward may get the samples of several clients as one batch.

    True for plain ones, and for those whose own class, no base of it, says so by `samplewise` and
    has tensors alone in such modules and in those that get each client's samples by themselves,
    see `is_batchwise`.
    """
    if is_plain(module):
        return True
    if type(module) not in _CONTAINERS and not vars(type(module)).get("samplewise", False):
        return False
    if module._parameters or module._buffers:
        return False
    return all(is_samplewise(child) or is_batchwise(child) for child in module.children())


def is_batchwise(module: nn.Module) -> bool:
    """Return whether a module compares the samples of a batch, and says that it does no more."""
    return bool(vars(type(module)).get("batchwise", False))


def put_side_by_side(modules: Sequence[nn.Module], gathered: list[NormStats]) -> nn.Module:
    """Return a module that runs one forward for K clients, each sample by its client's layers.

    Args:
        modules: Of each client, for which `is_samplewise` holds.
        gathered: Gets what running statistics have to follow.

    Returns:
        A module on (B * K, ...) tensors, those of client k at [k::K].
    """
    first = modules[0]
    if len(modules) == 1 and not any(isinstance(m, _BatchNorm) for m in first.modules()):
        return first
    if is_plain(first):
        return _SideBySide(modules, gathered)
    if is_batchwise(first):
        return _EachBatch(modules)
    made = copy.copy(first)
    made._modules = {
        name: None
        if child is None
        else put_side_by_side([each._modules[name] for each in modules], gathered)  # type: ignore[misc]
        for name, child in first._modules.items()
    }
    return made


class _SideBySide(nn.Module):
    """Plain layers of K clients."""

    def __init__(self, modules: Sequence[nn.Module], gathered: list[NormStats]) -> None:
        super().__init__()
        # In a tuple, they do not become this one's children.
        self.each, self.gathered = tuple(modules), gathered

    def forward(self, values: Tensor) -> Tensor:
        stack = Stack(values, len(self.each), is_apart=True)
        apply_rules(self.each, stack, self.gathered)
        return stack.apart()


class _EachBatch(nn.Module):
    """Modules of K clients, each of which gets its client's samples."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = tuple(modules)

    def forward(self, *given: Tensor) -> Tensor:
        count = len(self.each)
        parts = [m(*(t[k::count] for t in given)) for k, m in enumerate(self.each)]
        return torch.stack(parts, 1).flatten(0, 1)


def apply_rules(modules: Sequence[nn.Module], stack: Stack, gathered: list[NormStats]) -> None:
    """Pass a stack through plain modules of K clients."""
    if type(modules[0]) is nn.Sequential:
        for layers in zip(*modules, strict=True):
            apply_rules(layers, stack, gathered)
    else:
        RULES[type(modules[0])](stack, modules, gathered)
