"""Clients whose batches go through the networks side by side, and how clients are divided."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from .norm_stats import NormStats
from .split_forward import SplitForward

#: Largest number of samples that run side by side, and from which batch size on a client runs
#: alone (docs/performance.md).
STACKED_SAMPLES = 128
LARGE_BATCH = 64


@dataclass
class Microbatch:
    """K clients that are alike, and what is kept of their passes.

    Args:
        client_ids: Those still taking part.
        keeps_passes: Whether a pass that a later phase needs too is kept for it; else it is made
            anew, so that memory does not grow with the number of clients.
        passes: Passes of this step that are kept, by name.
        deferred: Batch statistics, by pass, that running statistics follow at the step's end. A
            pass that is made anew has its already.
    """

    client_ids: list[int]
    keeps_passes: bool = True
    passes: dict[str, SplitForward] = field(default_factory=dict)
    deferred: dict[str, list[NormStats]] = field(default_factory=dict)

    def remove(self, client_id: int) -> None:
        """Go on without a client."""
        self.client_ids = [c for c in self.client_ids if c != client_id]
        self.passes.clear()


def divide_clients(
    batch_sizes: Mapping[int, int],
    alike: Callable[[int], Hashable],
    is_stackable: Callable[[int], bool],
) -> list[list[int]]:
    """Divide clients into groups that run side by side, as small batches use a processor badly.

    The division is the same every time; groups and their members keep the order of clients.

    Args:
        batch_sizes: Samples of each participant.
        alike: Gives what all clients of a group have in common: server copy and cuts.
        is_stackable: Whether a client's blocks, and those that it left to the server, may run
            beside those of others.
    """
    found: dict[Hashable, list[int]] = {}
    for client_id, batch_size in batch_sizes.items():
        found.setdefault((alike(client_id), batch_size), []).append(client_id)
    groups = []
    for members in found.values():
        batch_size = batch_sizes[members[0]]
        runs_alone = batch_size >= LARGE_BATCH or not all(map(is_stackable, members))
        groups += _divide(members, 1 if runs_alone else max(1, STACKED_SAMPLES // batch_size))
    return sorted(groups, key=lambda group: group[0])


def _divide(members: list[int], limit: int) -> list[list[int]]:
    """Cut a list into parts of at most so many; an even number, for two threads to share."""
    count = -(-len(members) // limit)
    if 1 < count < len(members):
        count += count % 2
    ends = [len(members) * i // count for i in range(count + 1)]
    return [members[start:end] for start, end in pairwise(ends)]
