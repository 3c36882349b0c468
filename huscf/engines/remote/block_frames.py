"""Blocks in frames: several go together, named by whose they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ...errors import HuscfError
from ...models import Network
from ...parties import split_moments
from ...wire import Kind, MemoryWire
from ...wire.frames import Frame, FrameError, TensorSpec
from .expected import describe_block
from .parts import join_parts, open_parts, split_parts
from .protocol import Ask, Dropped

#: What optimisers keep of a parameter: Adam's, with and without AMSGrad, SGD's, RMSprop's.
_ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
_WHOLE_STATES = (
    *(_ADAM, _ADAM | {"max_exp_avg_sq"}, {"momentum_buffer"}),
    *({"step", "square_avg"}, {"step", "square_avg", "momentum_buffer"}),
)


class BlockRef(NamedTuple):
    """A client's block.

    Args:
        client_id: Whose.
        holding: "trained", or "average" for its moving average.
        network: Of which network.
        block: Index of the block.
    """

    client_id: int
    holding: str
    network: str
    block: int


class Wanted(NamedTuple):
    """A block that is fetched, or that a frame is to have.

    Args:
        ref: Whose.
        network: The full network that it is of.
        with_moments: Whether it may bring its optimiser's state.
        wire: Like the sender's.
    """

    ref: BlockRef
    network: Network
    with_moments: bool
    wire: MemoryWire

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the tensors that it may have."""
        return describe_block(self.network, self.ref.block, self.with_moments)


def read_refs(entries: Sequence[Any]) -> list[BlockRef]:
    """Return the blocks that a request names.

    Raises:
        FrameError: Where it names none, or one twice.
    """
    refs = [BlockRef(*entry) for entry in entries]
    if not refs or len(set(refs)) < len(refs):
        raise FrameError("no block is named, or one twice")
    return refs


def send_blocks(blocks: Iterable[tuple[BlockRef, Mapping[str, Tensor]]], ask: Ask) -> None:
    """Send blocks to the server, as they are carried."""
    for group in split_parts(blocks, lambda block: _count_bytes(block[1])):
        fields = {"refs": [list(ref) for ref, _ in group]}
        ask("block", fields, join_parts(tensors for _, tensors in group))


def fetch_blocks(
    blocks: Iterable[Wanted], kind: Kind, ask: Ask
) -> Iterator[tuple[BlockRef, dict[str, Tensor]]]:
    """Yield blocks with what the server gives of their tensors."""
    for group in split_parts(blocks, lambda block: sum(s.num_bytes for s in block.specs.values())):
        frame = ask("fetch", {"refs": [list(block.ref) for block in group]}, {})
        states = _open(frame, group, kind)
        yield from zip((block.ref for block in group), states, strict=True)


def take_blocks(frame: Frame, blocks: Sequence[Wanted], kind: Kind) -> list[dict[str, Tensor]]:
    """Return the blocks in a frame; the state of their optimisers may be missing.

    Raises:
        FrameError: Where a tensor is missing, not expected or does not fit.
    """
    states = _open(frame, blocks, kind)
    for block, state in zip(blocks, states, strict=True):
        for name in describe_block(block.network, block.ref.block, False):
            if name not in state:
                raise FrameError(f"block: tensor {name} is missing")
        _check_moments(state)
    return states


def fetch_block(wanted: Wanted, ask: Ask) -> dict[str, Tensor]:
    """Return a whole block that changes hands for good: it crosses as it is, whatever the wire.

    Raises:
        HuscfError: Where the server does not have it.
    """
    ref = wanted.ref
    try:
        frame = ask("fetch", {"refs": [list(ref)]}, {})
    except Dropped as error:
        raise HuscfError(
            f"the server has nothing of block {ref.block} for client {ref.client_id} any more"
        ) from error
    return take_blocks(frame, [wanted], "moved_blocks")[0]


def _open(frame: Frame, blocks: Sequence[Wanted], kind: Kind) -> list[dict[str, Tensor]]:
    expected = [(kind, block.specs) for block in blocks]
    return open_parts(frame, [block.wire for block in blocks], expected, optional=True)


def _check_moments(state: Mapping[str, Tensor]) -> None:
    """Refuse a part of an optimiser's state of a parameter, with which none could go on."""
    _, moments = split_moments(state)
    found: dict[str, set[str]] = {}
    for name in moments:
        _, key, owner = name.split(".", 2)
        found.setdefault(owner, set()).add(key)
    for owner, keys in found.items():
        if keys not in _WHOLE_STATES:
            raise FrameError(f"block: the moments of {owner} are not whole: {', '.join(keys)}")


def _count_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
