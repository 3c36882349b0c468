"""Running statistics of norms that follow clients in a fixed order, whoever comes first.

The server runs clients as their messages arrive. A norm in training normalises a batch by the
batch itself; only its running statistics depend on the order. So they are put back after every
pass, and follow the batches when a phase ends, client after client.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class DeferredNorms:
    """What entered the norms of one client's passes, in order."""

    def __init__(self) -> None:
        self._seen: list[tuple[_BatchNorm, Tensor]] = []

    @contextmanager
    def recording(self, norms: Iterable[_BatchNorm]) -> Iterator[None]:
        """Keep what enters these norms, and leave their running statistics alone."""
        each = list(norms)
        before = [(buffer, buffer.clone()) for norm in each for buffer in norm.buffers()]
        hooks = [norm.register_forward_pre_hook(self._see) for norm in each]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for buffer, old in before:
                buffer.data.copy_(old)  # graphs hold it, and need not know

    @torch.no_grad()
    def follow(self) -> None:
        """Let the running statistics follow."""
        for norm, inputs in self._seen:
            norm(inputs)
        self._seen = []

    def _see(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        self._seen.append((norm, inputs[0].detach()))


def find_norms(blocks: nn.Module) -> list[_BatchNorm]:
    """Return the norms that keep running statistics."""
    found = (m for m in blocks.modules() if isinstance(m, _BatchNorm))
    return [norm for norm in found if norm.running_mean is not None and norm.training]


def is_order_free(blocks: nn.Module) -> bool:
    """Return whether nothing but running statistics of norms depends on who comes first.

    Layers with other buffers, such as estimates of spectral norms, or that draw, such as dropout,
    give a client other results after another one.
    """
    norms = [m for m in blocks.modules() if isinstance(m, _BatchNorm)]
    known = {id(buffer) for norm in norms for buffer in norm.buffers()}
    draws = any(isinstance(m, nn.modules.dropout._DropoutNd) for m in blocks.modules())
    return not draws and all(id(buffer) in known for buffer in blocks.buffers())
