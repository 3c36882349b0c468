"""What crosses a cut of a network, and what stays at home."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..models import MAIN, names_read, names_written


@dataclass(frozen=True)
class Crossing:
    """Names of the tensors that pass between a client and the server in one network.

    Args:
        up: From the client's head, or its inputs, to the server.
        down: From the server to the client's tail, or as the network's output.
        home: From the client's head, or its inputs, to its own tail: these never cross.
        raw: Those of `up` that no block of the client has changed, such as labels.
    """

    up: tuple[str, ...]
    down: tuple[str, ...]
    home: tuple[str, ...]
    raw: tuple[str, ...]


def find_crossing(blocks: Sequence[nn.Module], head: int, tail: int) -> Crossing:
    """Return what passes where a client holds `head` blocks of a network and `tail` at its end.

    What a skip connection carries from a head to a tail stays at home, as do labels that only
    the client's blocks read.
    """
    middle, end = range(head, len(blocks) - tail), range(len(blocks) - tail, len(blocks))
    _, at_head = _needed(blocks, range(head))
    up, made = _needed(blocks, middle)
    wanted, _ = _needed(blocks, end)
    if not tail:
        wanted = (MAIN,)
    down = tuple(name for name in wanted if name in made)
    home = tuple(name for name in wanted if name not in made)
    raw = tuple(name for name in up if name not in at_head)
    return Crossing(up, down, home, raw)


def _needed(blocks: Sequence[nn.Module], indices: range) -> tuple[tuple[str, ...], set[str]]:
    """Return the names that blocks need from those before them, and all that they write."""
    needed: dict[str, None] = {}
    written: set[str] = set()
    for index in indices:
        reads = names_read(index, blocks[index])
        needed.update(dict.fromkeys(name for name in reads if name not in written))
        written.update(names_written(blocks[index]))
    return tuple(needed), written
