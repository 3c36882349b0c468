"""How a site asks: one numbered frame at a time, and what its answer means."""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import HuscfError
from ...wire.frames import Compression, Frame, FrameError, pack
from .protocol import DROPPABLE, PROTOCOL, Dismissed, Dropped, check_answer

#: Carries a frame to the server and returns its answer; sends it again where a stream breaks.
Exchange = Callable[[bytes], bytes]


class Rejoin(Exception):
    """The server does not know this session, as after it was started anew."""


class Caller:
    """One session of a site.

    Args:
        exchange: The way to the server.

    Attributes:
        num_bytes: Bytes sent and received so far.
        compression: Of what it sends, as the server says.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.num_bytes = [0, 0]
        self.compression: Compression | None = None
        self._begin()

    def join(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a new session; wait until the run is set up, and return what the server says of it.

        Args:
            description: What the site tells of itself; see the protocol.
        """
        self._begin()
        while True:
            header = self._send("join", {"protocol": PROTOCOL, **description}, {}).header
            if (kind := header.get("kind")) == "welcome":
                self._seq = 0
                return {name: header[name] for name in header.keys() - {"kind", "seq"}}
            if kind != "wait":
                raise FrameError(f"the server answered 'join' by {kind!r:.40}")

    def probe(self, up: int, down: int) -> float:
        """Send and get so many bytes; return the seconds that this took."""
        header = {"kind": "probe", "seq": 0, "session": "", "size": down}
        data = pack(header, {"content": torch.zeros(up // 4)})
        started = time.perf_counter()
        reply = self._exchange(data)
        seconds = time.perf_counter() - started
        header = Frame(reply).header
        _check_refused("probe", header)
        check_answer("probe", header)
        return seconds

    def ask(
        self, kind: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> Frame:
        """Send a request, and return its answer.

        Raises:
            Dropped: Where the site is out of this step.
            Dismissed: Where the server has said goodbye.
            Rejoin: Where it does not know this session.
            HuscfError: Where it refuses, naming the reason.
        """
        return self._send(kind, fields, tensors or {})

    def _begin(self) -> None:
        self._session, self._seq = secrets.token_hex(16), 0

    def _send(self, kind: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Frame:
        self._seq += 1
        header = {**fields, "kind": kind, "seq": self._seq, "session": self._session}
        data = pack(header, tensors, self.compression)
        reply = self._exchange(data)
        self.num_bytes[0] += len(data)
        self.num_bytes[1] += len(reply)
        answer = Frame(reply)
        self._judge(kind, answer.header)
        return answer

    def _judge(self, kind: str, header: Mapping[str, Any]) -> None:
        _check_refused(kind, header)
        answer = header.get("kind")
        if answer == "displaced":
            raise HuscfError("another process has joined under this site's name; this one ends")
        if answer == "rejoin" and kind != "join":
            raise Rejoin
        if answer == "bye":
            raise Dismissed(_read_reason(header))
        if header.get("seq") != self._seq:
            raise FrameError(
                f"the server answered frame {header.get('seq')!r:.20}, not {self._seq}"
            )
        if answer == "dropped" and kind in DROPPABLE:
            raise Dropped
        check_answer(kind, header)


def _check_refused(asked: str, header: Mapping[str, Any]) -> None:
    if header.get("kind") == "refused":
        raise HuscfError(f"the server refused {asked!r}: {_read_reason(header)}")


def _read_reason(header: Mapping[str, Any]) -> str:
    return str(header.get("reason", ""))[:300]
