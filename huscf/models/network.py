"""A network as an ordered list of blocks that no cut divides, and what flows between them."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import HuscfError

#: Named tensors on their way through a network, (B, ...) each.
Carry = dict[str, Tensor]

#: The tensor that every block reads and writes unless it says otherwise.
MAIN = "x"
LABELS = "labels"


@dataclass(frozen=True)
class SampleShape:
    """What one sample looks like, shared by all clients of a run.

    Args:
        channels: Colour planes: 1 for grey pictures and spectrograms, 3 for colour.
        image_size: Height and width in pixels (samples are square).
        num_classes: Number of labels; labels run from 0 to num_classes - 1.
    """

    channels: int
    image_size: int
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("channels", "image_size", "num_classes"):
            if getattr(self, name) < 1:
                raise HuscfError(f"sample shape: {name} is {getattr(self, name)}, must be >= 1")


class Network(nn.ModuleList):
    """An ordered list of blocks.

    A block is the smallest unit that a cut may not divide, for instance layer + norm +
    activation. It takes one tensor and returns one, and the first takes labels too if its
    `forward` has room for two. A block that takes or returns others, such as a skip connection
    or a time embedding, names them in its attributes `reads` and `writes`, tuples of names in the
    order of its arguments and results; the main tensor is "x". A class of blocks with a `forward`
    of its own may say `samplewise = True`: it treats every sample alone, draws nothing, and has
    all its parameters in layers that it calls, so that several clients can run at once. A module
    in it that compares the samples of a batch says `batchwise = True`: it takes (B, ...) tensors,
    returns one, draws nothing and keeps nothing of a batch. State keys begin with the block's
    index, so the state of any run of blocks is named like the full network's.

    Args:
        blocks: The blocks in forward order.

    Raises:
        HuscfError: For layers that cannot be copied, as every client needs them.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        for index, block in enumerate(self):
            hooks = (h for m in block.modules() for h in m._forward_pre_hooks.values())
            if any(isinstance(hook, (SpectralNorm, WeightNorm)) for hook in hooks):
                raise HuscfError(
                    f"block {index}: torch.nn.utils.spectral_norm and weight_norm make layers that "
                    "cannot be copied: use those of torch.nn.utils.parametrizations"
                )

    def __getitem__(self, index: int | slice) -> nn.Module:  # type: ignore[override]
        """Return one block, or a slice as a network of its own."""
        if isinstance(index, slice):
            return Network(list(self)[index])
        return super().__getitem__(index)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **others: Tensor) -> Tensor:
        """Run all blocks, uncut.

        Args:
            inputs: The main tensor, such as noise (B, latent_dim) or samples (B, C, H, W).
            labels: (B,) int64, where a block reads them.
            others: What else blocks read, by name.
        """
        carry = {MAIN: inputs, **others} | ({} if labels is None else {LABELS: labels})
        return run_blocks(dict(enumerate(self)), carry)[MAIN]


def names_read(index: int, block: nn.Module) -> tuple[str, ...]:
    """Return what a block takes, in order; index is its place in the network."""
    declared = getattr(block, "reads", None)
    if declared is not None:
        return tuple(declared)
    if index == 0 and _takes_two(block):
        return (MAIN, LABELS)
    return (MAIN,)


def names_written(block: nn.Module) -> tuple[str, ...]:
    """Return what a block gives, in order."""
    return tuple(getattr(block, "writes", (MAIN,)))


def run_blocks(blocks: Mapping[int, nn.Module], carry: Mapping[str, Tensor]) -> Carry:
    """Pass named tensors through blocks in ascending order.

    Args:
        blocks: Blocks of one network by their index in it.
        carry: What they read and do not write themselves.

    Returns:
        What was given and what the blocks wrote.
    """
    values = dict(carry)
    for index in sorted(blocks):
        values.update(run_block(index, blocks[index], values))
    return values


def run_block(index: int, block: nn.Module, carry: Mapping[str, Tensor]) -> Carry:
    """Return what one block writes, by name; index is its place in the network."""
    return name_outputs(block, block(*(carry[name] for name in names_read(index, block))))


def name_outputs(block: nn.Module, outputs: Any) -> Carry:
    """Return what a block gave by name."""
    names = names_written(block)
    each = (outputs,) if len(names) == 1 else outputs
    return dict(zip(names, each, strict=True))


def inputs_of(network: Sequence[nn.Module]) -> tuple[str, ...]:
    """Return the names that a network needs from outside."""
    needed: dict[str, None] = {}
    written: set[str] = set()
    for index, block in enumerate(network):
        needed.update(dict.fromkeys(n for n in names_read(index, block) if n not in written))
        written.update(names_written(block))
    return tuple(needed)


def _takes_two(block: nn.Module) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(block.forward).parameters.values()
    return sum(p.kind in kinds for p in parameters) >= 2
