"""A run of blocks that one party holds."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..models import (
    BatchStatistics,
    can_stack,
    find_spectral_norms,
    run_blocks,
    run_stacked,
)

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Segment(LightningModule):
    """Consecutive blocks of one network in one hand: a client's head or tail, or the server's.

    State keys are "blocks.<index in the full network>.<name>", so that any two holders of a
    block call its parameters the same.

    Args:
        blocks: Block by its index in the full network.

    Attributes:
        is_stackable: Whether several clients may go through the blocks side by side.
        spectral_norms: Weights with an estimate of their norm.
    """

    def __init__(self, blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(index): blocks[index] for index in sorted(blocks)})
        self.is_stackable = can_stack(self.blocks.values())
        self.spectral_norms = tuple(find_spectral_norms(self.blocks))
        # Walking through modules at every step would cost more than what is done with the tensors.
        self._holders = [m for m in self.blocks.modules() if m._parameters or m._buffers]

    @property
    def indices(self) -> list[int]:
        """Return the indices of the blocks, ascending."""
        return [int(index) for index in self.blocks]

    def block(self, index: int) -> nn.Module:
        """Return one block by its index in the full network."""
        return self.blocks[str(index)]

    def tensors(self) -> Iterator[Tensor]:
        """Yield all parameters and buffers, in fixed order."""
        for module in self._holders:
            for each in (module._parameters, module._buffers):
                yield from (tensor for tensor in each.values() if tensor is not None)

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        indices: Iterable[int] | None = None,
    ) -> Tensor:
        """Run the blocks, or those of the given indices.

        Args:
            inputs: Input of the first block, (B, ...); left alone.
            labels: (B,) int64 where the first block is the network's first, else None.
            indices: Consecutive block indices; None runs all.
        """
        chosen = self.indices if indices is None else indices
        # The first layer may work in place, which must not reach the sender's tensor.
        blocks = (self.blocks[str(index)] for index in chosen)
        return run_blocks(blocks, inputs.clone(), labels)


def run_side_by_side(
    segments: Sequence[Segment],
    inputs: Tensor,
    labels: Tensor | None,
    pending: list[BatchStatistics] | None,
) -> Tensor:
    """Run the heads, or the tails, of clients that are equal in cuts and batch size.

    Args:
        segments: One of each of K clients.
        inputs: (B, K, ...), those of client k at [:, k].
        labels: (B, K) int64 for heads, None for tails.
        pending: As in `huscf.models.run_stacked`.

    Returns:
        (B, K, ...).
    """
    if not segments[0].is_stackable:
        (segment,) = segments
        own_labels = labels if labels is None else labels.squeeze(1)
        return segment(inputs.squeeze(1), own_labels)[:, None]
    columns = [[*segment.blocks.values()] for segment in segments]
    return run_stacked(columns, inputs, labels, pending)


def clone_block(block: ModuleT, cloned_from: dict[nn.Parameter, nn.Parameter]) -> ModuleT:
    """Return a deep copy, and note for each of its parameters where it comes from.

    Args:
        block: A block or a whole segment.
        cloned_from: Gets clone -> original.
    """
    clone = copy.deepcopy(block)
    cloned_from.update(zip(clone.parameters(), block.parameters(), strict=True))
    return clone
