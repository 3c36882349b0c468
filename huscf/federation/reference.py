"""Blocks that never train, under which clients can be compared whenever they take part."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..models import MAIN, Carry, names_read, names_written, run_blocks
from .statistics import ActivationStatistics

#: The frame of summaries of what these blocks show.
FRAME = "reference"

#: Carries a client's tensors to the server; None where they get lost.
Send = Callable[[int, Carry], Carry | None]


class ReferenceBlocks(nn.Module):
    """A network's first blocks as they were before training.

    Every party has them, since all start from one set of weights: a client runs a batch through
    those of its head, and the server the others. What arrives depends on the samples alone: not
    on the moment, the step's participants, the client's cluster, or its cuts. Norms use their
    initial statistics, so that the size of a batch does not show.

    Args:
        blocks: Consecutive, from the network's first one on.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy(block) for block in blocks)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def run(self, carry: Mapping[str, torch.Tensor], start: int, stop: int | None) -> Carry:
        """Run a part of the blocks.

        Args:
            carry: What they read, by name, (B, ...) each.
            start: First block.
            stop: Block before which to stop; None runs the rest.
        """
        return run_blocks(dict(list(enumerate(self.blocks))[start:stop]), carry)

    def names_needed(self, start: int) -> list[str]:
        """Return what the blocks from a place on read and do not write themselves."""
        needed, written = [MAIN], set[str]()
        for index, block in list(enumerate(self.blocks))[start:]:
            needed += [name for name in names_read(index, block) if name not in written]
            written.update(names_written(block))
        return list(dict.fromkeys(needed))


class ReferenceObserver:
    """Lets clients' first batches of a round pass the reference blocks, and keeps the sums.

    Args:
        blocks: Before training; see ReferenceBlocks.
        num_samples: Of a client and round, at least so many samples pass, or all of its batches.
    """

    def __init__(self, blocks: Sequence[nn.Module], num_samples: int = 64) -> None:
        self.blocks = ReferenceBlocks(blocks)
        self.num_samples = num_samples
        self.statistics = ActivationStatistics(len(self.blocks.blocks), 0.0, FRAME)

    def observe(
        self, inputs: Mapping[int, Carry], head_cuts: Mapping[int, int], send: Send
    ) -> None:
        """Take a step's batches of the clients that have not shown enough yet.

        Args:
            inputs: What enters the network, by client and name, (B, ...) each.
            head_cuts: First block that is not the client's, by client.
            send: Carries what a client's blocks made to the server.
        """
        for client, carry in inputs.items():
            if not self.wants(client):
                continue
            # One by one, as clients at sites of their own are: a batch of all may round otherwise.
            arrived = send(client, self.show(carry, head_cuts[client]))
            if arrived is not None:
                self.take(client, arrived, head_cuts[client])

    def wants(self, client: int) -> bool:
        """Return whether a client has not shown enough yet in this round."""
        return self.statistics.num_samples(client) < self.num_samples

    def show(self, carry: Carry, cut: int | None) -> Carry:
        """Return what a client sends: what its blocks, those before the cut, make of a batch.

        None is all blocks.
        """
        self.blocks.to(carry[MAIN].device)
        made = self.blocks.run(carry, 0, cut)
        names = [MAIN] if cut is None else self.blocks.names_needed(cut)
        return {name: made[name] for name in names}

    def take(self, client: int, arrived: Carry, cut: int) -> None:
        """Add what a client sent, after the blocks behind its cut, to the sums."""
        values = self.blocks.run(arrived, cut, None)
        self.statistics.update([client], values[MAIN].unsqueeze(1))
        self.statistics.fold()

    def state_dict(self) -> dict[str, Any]:
        """Return the blocks and the sums for a checkpoint."""
        return {"blocks": self.blocks.state_dict(), "statistics": self.statistics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.blocks.load_state_dict(state["blocks"])
        self.statistics.load_state_dict(state["statistics"])
