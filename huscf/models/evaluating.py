"""Running networks as they are used, not as they are trained."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from .network import MAIN, Carry, Network, run_blocks

#: Samples that go through a network at once when drawing. On a CPU their activations stay in its
#: caches: 64 are twice as fast as 1,024, and a U-Net of width 32 is another
#: 1.2 times as fast with 32; smaller networks do not mind.
DRAWN_AT_ONCE = 32
DRAWN_AT_ONCE_ELSEWHERE = 1024
#: Maps of so many channels leave those caches sooner, and are convolved faster where channels lie
#: side by side: both together draw 1.4 times as fast with width 32, and slower with 16.
WIDE = 32
WIDE_DRAWN_AT_ONCE = 16


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Hold networks in evaluation mode, without gradients; their modes are restored."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def run_in_parts(run: Callable[[Carry], Carry], inputs: Carry, size: int) -> Carry:
    """Run samples in parts of at most `size`, and join what comes out, (N, ...) each by name."""
    count = len(next(iter(inputs.values())))
    starts = range(0, count, size)
    parts = [run({n: t[start : start + size] for n, t in inputs.items()}) for start in starts]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def run_to_draw(network: Network, inputs: Carry, device: torch.device) -> Carry:
    """Run an uncut network on a device, many samples in parts, as it is used; it stays as it is."""
    size = DRAWN_AT_ONCE if device.type == "cpu" else DRAWN_AT_ONCE_ELSEWHERE
    blocks = dict(enumerate(network))
    layout: AbstractContextManager[None] = nullcontext()
    stem = _find_wide_stem(network) if device.type == "cpu" and inputs[MAIN].ndim == 4 else None
    if stem is not None:
        size, layout = WIDE_DRAWN_AT_ONCE, _channels_last(stem)

    def run_part(part: Carry) -> Carry:
        return run_blocks(blocks, {name: tensor.to(device) for name, tensor in part.items()})

    with evaluating(network), layout:
        return run_in_parts(run_part, inputs, size)


def run_first(network: Network, count: int, inputs: Carry) -> Carry:
    """Return what is known before the block of a place, as `run_blocks` does; changes nothing."""
    with evaluating(network):
        return run_blocks(dict(list(enumerate(network))[:count]), inputs)


def _find_wide_stem(network: Network) -> nn.Conv2d | None:
    """Return a network's first convolution where it is wide."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return first if first is not None and first.out_channels >= WIDE else None


@contextmanager
def _channels_last(stem: nn.Conv2d) -> Iterator[None]:
    """Lay out what the first convolution reads; the layers behind it keep the layout."""
    hook = stem.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].contiguous(memory_format=torch.channels_last),)
    )
    try:
        yield
    finally:
        hook.remove()
