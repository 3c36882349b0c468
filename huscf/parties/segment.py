"""A run of blocks that one party holds."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..models import MAIN, Carry, find_spectral_norms, renew_spectral_norms, run_blocks

ModuleT = TypeVar("ModuleT", bound=nn.Module)

#: Clone -> original, of parameters.
Clones = dict[nn.Parameter, nn.Parameter]


class Segment(LightningModule):
    """Consecutive blocks of one network in one hand: a client's head or tail, or the server's.

    State keys are "blocks.<index in the full network>.<name>", so that any two holders of a
    block call its parameters the same.

    Args:
        blocks: Block by its index in the full network; may be none.

    Attributes:
        spectral_norms: Weights with an estimate of their norm.
    """

    def __init__(self, blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(index): blocks[index] for index in sorted(blocks)})
        self.indices = sorted(blocks)
        # Beside the ModuleDict, whose look-ups cost more than small layers.
        self._by_index = {index: blocks[index] for index in self.indices}
        self.spectral_norms = tuple(find_spectral_norms(self.blocks))
        # Walking through modules at every step would cost more than what is done with the tensors.
        self._holders = [m for m in self.blocks.modules() if m._parameters or m._buffers]

    def block(self, index: int) -> nn.Module:
        """Return one block by its index in the full network."""
        return self._by_index[index]

    def by_index(self) -> dict[int, nn.Module]:
        """Return the blocks by their index in the full network; not to be changed."""
        return self._by_index

    def tensors(self) -> Iterator[Tensor]:
        """Yield all parameters and buffers, in fixed order."""
        for module in self._holders:
            for each in (module._parameters, module._buffers):
                yield from (tensor for tensor in each.values() if tensor is not None)

    def renew_norms(self, num_iterations: int = 1) -> None:
        """Estimate spectral norms anew for weights that changed otherwise than by training."""
        renew_spectral_norms(self.spectral_norms, num_iterations)

    def forward(self, carry: Mapping[str, Tensor], indices: Iterable[int] | None = None) -> Carry:
        """Run the blocks, or those of the given indices.

        Args:
            carry: What enters, by name, (B, ...) each; left alone.
            indices: Consecutive block indices; None runs all.
        """
        chosen = self.indices if indices is None else indices
        # The first layer may work in place, which must not reach the sender's tensor.
        values = {**carry, MAIN: carry[MAIN].clone()} if MAIN in carry else dict(carry)
        return run_blocks({index: self.block(index) for index in chosen}, values)


def clone_block(block: ModuleT, cloned_from: Clones) -> ModuleT:
    """Return a deep copy, and note for each of its parameters where it comes from.

    Args:
        block: A block or a whole segment.
        cloned_from: Gets clone -> original.
    """
    clone = copy.deepcopy(block)
    cloned_from.update(zip(clone.parameters(), block.parameters(), strict=True))
    return clone
