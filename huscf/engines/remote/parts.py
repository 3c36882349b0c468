"""Several messages in one frame: what a site sends or gets at a time, and waits for once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from ...wire import Kind, MemoryWire
from ...wire.frames import Frame, TensorSpec
from .expected import decode

EntryT = TypeVar("EntryT")

#: A frame holds several messages up to so many bytes; larger ones gain nothing from company.
MAX_TOGETHER = 16 << 20


def split_parts(
    entries: Iterable[EntryT], measure: Callable[[EntryT], int]
) -> Iterator[list[EntryT]]:
    """Yield what goes in one frame: as many entries as fit, and at least one.

    Args:
        entries: In their order.
        measure: Returns an entry's size in bytes.
    """
    group: list[EntryT] = []
    total = 0
    for entry in entries:
        total += (size := measure(entry))
        if group and total > MAX_TOGETHER:
            yield group
            group, total = [], size
        group.append(entry)
    if group:
        yield group


def join_parts(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of several messages as those of one frame."""
    return {_name_part(n, name): t for n, part in enumerate(parts) for name, t in part.items()}


def open_parts(
    frame: Frame,
    wires: Sequence[MemoryWire],
    expected: Sequence[tuple[Kind, Mapping[str, TensorSpec]]],
    optional: bool = False,
) -> list[dict[str, Tensor]]:
    """Return the tensors of several messages in one frame, as `open_frame` does those of one.

    Args:
        frame: What a network has carried.
        wires: Like the senders', one for each message.
        expected: Kind of each message, and what may arrive.
        optional: Whether some of it may be missing.

    Raises:
        FrameError: Where the frame has something else.
    """
    each = list(zip(wires, expected, strict=True))
    specs = [wire.describe_carried(kind, own) for wire, (kind, own) in each]
    carried = frame.take_tensors(name_parts(specs), optional)
    found = []
    for number, (wire, (kind, own)) in enumerate(each):
        names = {name: _name_part(number, name) for name in specs[number]}
        mine = {name: carried[full] for name, full in names.items() if full in carried}
        found.append(decode(wire, kind, mine, own))
    return found


def name_parts(specs: Iterable[Mapping[str, TensorSpec]]) -> dict[str, TensorSpec]:
    """Return what several messages have, by its names in one frame."""
    return {_name_part(n, name): s for n, part in enumerate(specs) for name, s in part.items()}


def _name_part(number: int, name: str) -> str:
    return f"{number}.{name}"
