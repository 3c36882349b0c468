"""Blocks that cross between two steps: what clients are asked for, and what they may fetch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...parties import is_finite, split_moments
from ...wire import SERVER, Kind, Message
from ...wire.frames import Frame, FrameError, TensorSpec
from ..base import block_topic
from ..processes import State
from .block_frames import BlockRef, Wanted, read_refs, take_blocks
from .parts import join_parts, name_parts
from .protocol import Reply
from .step import DroppedError

if TYPE_CHECKING:
    from .engine import RemoteEngine


class BlockExchange:
    """Asks the sites' clients for blocks, and hands some out; threads of sites call `answer`.

    Args:
        engine: The server's.

    Attributes:
        owed: Blocks that have moved to clients whose sites have not saved them yet.
        lent: The server's own that clients may have now, to draw without it.
    """

    def __init__(self, engine: "RemoteEngine") -> None:
        self.engine = engine
        self.owed: dict[BlockRef, State] = {}
        self.lent: dict[BlockRef, State] = {}
        self._new: dict[BlockRef, State] = {}
        self._wanted: dict[BlockRef, bool] = {}
        self._wanted_as: Kind = "blocks"
        self._given: dict[BlockRef, State] = {}
        self._wanted_words: dict[BlockRef, int] = {}
        self._given_words: dict[BlockRef, np.ndarray] = {}

    def collect(
        self, refs: Sequence[BlockRef], with_moments: bool, kind: Kind
    ) -> dict[BlockRef, State]:
        """Return these blocks of clients, as far as their sites sent them in time."""
        self._wanted, self._given = dict.fromkeys(refs, with_moments), {}
        self._wanted_as = kind
        commands = {
            name: {
                "kind": "give",
                "blocks": [list(ref) for ref in refs if ref.client_id in own],
                "moments": with_moments,
                "as": kind,
            }
            for name, own in self.engine.by_site({ref.client_id for ref in refs}).items()
        }
        self.engine.sessions.call(commands, self.engine.timeout_s)
        given, self._wanted, self._given = self._given, {}, {}
        return given

    @contextmanager
    def taking_words(self, counts: Mapping[BlockRef, int]) -> Iterator[dict[BlockRef, np.ndarray]]:
        """Take masked blocks of so many words each; yield where those stand that have come."""
        self._wanted_words, self._given_words = dict(counts), {}
        try:
            yield self._given_words
        finally:
            self._wanted_words, self._given_words = {}, {}

    def hand_out(
        self,
        blocks: Mapping[BlockRef, State],
        forgetful: Iterable[int],
        client_ids: Iterable[int] = (),
    ) -> set[int]:
        """Let clients fetch new blocks, as far as their sites are there; return who has them.

        Args:
            blocks: Of any clients.
            forgetful: Clients that forget their moments.
            client_ids: Clients that are told, beside those of the blocks.
        """
        engine, forgetful = self.engine, {*forgetful}
        told = {*client_ids, *(ref.client_id for ref in blocks)} & {*engine.present_clients()}
        takes = {
            name: {
                "kind": "take",
                "blocks": [list(ref) for ref in blocks if ref.client_id in own],
                "forget": sorted(forgetful & {*own}),
            }
            for name, own in engine.by_site(told).items()
        }
        self._new = dict(blocks)
        answers = engine.sessions.call(takes, engine.timeout_s)
        self._new = {}
        whole = [name for name, answer in answers.items() if answer.get("has_taken") is True]
        return {c for name in whole for c in engine.sessions.roster[name] if c in told}

    def forget_owed(self, client_ids: Iterable[int]) -> None:
        """Keep no longer what clients were sent, as their sites have saved it."""
        gone = set(client_ids)
        self.owed = {ref: state for ref, state in self.owed.items() if ref.client_id not in gone}

    def answer(self, name: str, frame: Frame) -> Reply:
        """Take blocks that were asked for, or hand out some.

        Raises:
            DroppedError: Where there are no such now, as for a site that is late.
        """
        refs, kind = read_refs(frame.header["refs"]), frame.header["kind"]
        self.engine.check_own(name, kind, (ref.client_id for ref in refs))
        if kind == "fetch":
            if not (self._new or self.lent or self.owed):
                raise DroppedError
            return {"kind": "ok"}, self._give_out(refs)
        if refs and all(ref in self._wanted_words for ref in refs):
            self._take_words(frame, refs)
        else:
            self._take_blocks(frame, refs)
        return {"kind": "ok"}, {}

    def _give_out(self, refs: Sequence[BlockRef]) -> dict[str, Tensor]:
        found = [self._new.get(r, self.lent.get(r, self.owed.get(r))) for r in refs]
        messages = []
        for ref, state in zip(refs, found, strict=True):
            if state is None:
                raise FrameError(f"fetch: nothing of block {ref.block} for client {ref.client_id}")
            kind: Kind = "blocks" if ref in self._new else "moved_blocks"
            topic = block_topic(ref.network, ref.holding)
            messages.append(Message(SERVER, ref.client_id, kind, topic, state))
        return join_parts(self.engine.wire.depart(message) for message in messages)

    def _take_words(self, frame: Frame, refs: Sequence[BlockRef]) -> None:
        """Take blocks that their members have masked, as words."""
        specs = [{"masked": TensorSpec(torch.int64, (self._wanted_words[ref],))} for ref in refs]
        words = frame.take_tensors(name_parts(specs))
        for ref, masked in zip(refs, words.values(), strict=True):
            topic, content = block_topic(ref.network, ref.holding), {"masked": masked}
            self.engine.wire.note(Message(ref.client_id, SERVER, "blocks", topic, content))
            self._given_words[ref] = masked.numpy().view(np.uint64)

    def _take_blocks(self, frame: Frame, refs: Sequence[BlockRef]) -> None:
        engine, asked = self.engine, self._wanted  # another thread may end the asking at any time
        if not asked or any(ref not in asked for ref in refs):
            raise DroppedError  # as of a site that is late, while others' blocks are waited for
        wanted = [Wanted(r, engine.networks[r.network], asked[r], engine.wire) for r in refs]
        states = take_blocks(frame, wanted, self._wanted_as)
        for ref, state in zip(refs, states, strict=True):
            own, _ = split_moments(state)
            if ref.client_id not in engine.diverged and not all(map(is_finite, own.values())):
                raise FrameError(f"block {ref.block} of client {ref.client_id} is NaN or Inf")
        for ref, state in zip(refs, states, strict=True):
            topic = block_topic(ref.network, ref.holding)
            engine.wire.note(Message(ref.client_id, SERVER, self._wanted_as, topic, state))
            self._given[ref] = state
