"""The network of NVFlare: a frame is a message of bytes between two of its cells.

A cell is NVFlare's end of a connection, of which every process of a job has one. What a message
holds is bytes, so that nothing of ours is decoded by NVFlare.
"""

from collections.abc import Callable, Mapping
from threading import BoundedSemaphore
from typing import Any

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message

from ..engines.remote import Sessions
from ..errors import HuscfError
from .exchange import ANSWER_S, MAX_FRAME, NoAnswer, PatientExchange

CHANNEL, TOPIC = "huscf", "frame"
#: Frames of one site that are answered at a time: one, and one that repeats it.
_MOST_AT_ONCE = 2


class NvflareServer:
    """Answers the frames of sites, whom NVFlare knows by the cell that a message is from.

    Args:
        sessions: Answers frames.
        cell: The server's.
        origins: Names of sites by their cells.
    """

    def __init__(self, sessions: Sessions, cell: Any, origins: Mapping[str, str]) -> None:
        self.sessions, self._origins = sessions, dict(origins)
        self._rooms = {name: BoundedSemaphore(_MOST_AT_ONCE) for name in origins.values()}
        cell.core_cell.register_request_cb(CHANNEL, TOPIC, self._answer)

    def _answer(self, request: Message) -> Message:
        name = self._origins.get(request.get_header(MessageHeaderKey.ORIGIN))
        if name is None:
            return _reply(ReturnCode.UNAUTHENTICATED)
        data = request.payload
        if not isinstance(data, (bytes, bytearray)) or len(data) > MAX_FRAME:
            return _reply(ReturnCode.INVALID_REQUEST)
        room = self._rooms[name]
        if not room.acquire(blocking=False):  # or one site could keep all threads of the cell
            return _reply(ReturnCode.SERVICE_UNAVAILABLE)
        try:
            self.sessions.connect(name)
            return _reply(ReturnCode.OK, self.sessions.handle(name, bytes(data)))
        finally:
            room.release()


class NvflareExchange(PatientExchange):
    """A site's way to the server.

    Args:
        cell: The site's.
        target: Name of the server's cell.
        is_aborted: Whether NVFlare has ended the job.
        patience_s: It gives up where the server cannot be reached for so long.
        on_event: Is told of what happens, in a few words.
    """

    def __init__(
        self,
        cell: Any,
        target: str,
        is_aborted: Callable[[], bool] = lambda: False,
        patience_s: float = 600.0,
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        super().__init__(f"the job's cell {target}", patience_s, on_event)
        self._cell, self._target, self._is_aborted = cell, target, is_aborted

    def exchange(self, data: bytes) -> bytes:
        """Carry a frame once."""
        if self._is_aborted():
            raise HuscfError("NVFlare has ended the job")
        reply = self._cell.core_cell.send_request(
            CHANNEL, TOPIC, self._target, Message({}, data), timeout=ANSWER_S
        )
        code = reply.get_header(MessageHeaderKey.RETURN_CODE)
        if code != ReturnCode.OK or not isinstance(reply.payload, (bytes, bytearray)):
            raise NoAnswer(f"NVFlare says {code!s:.40}")
        return bytes(reply.payload)

    def close(self) -> None:
        """Leave the cell as it is, which is NVFlare's."""


def _reply(code: str, data: bytes | None = None) -> Message:
    return Message({MessageHeaderKey.RETURN_CODE: code}, data)
