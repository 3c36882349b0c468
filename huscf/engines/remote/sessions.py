"""Who is connected, what was asked of them, and which frame got which answer."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ...errors import HuscfError
from ...wire.frames import Compression, Frame, FrameError, pack
from .protocol import MAX_PROBE, Reply, check_request
from .step import DroppedError

#: A request waits at most so long for something to happen before it is answered by `wait`.
POLL_S = 15.0
#: So many refused frames of a site are told one by one.
MAX_NOTED = 20


@dataclass
class Session:
    """One process of a site, from its join on.

    Args:
        key: Drawn when it joins; every later request names it.
    """

    key: str
    seq: int = 0
    reply: bytes = b""
    is_busy: bool = False
    command: tuple[int, dict[str, Any]] | None = None
    is_sent: bool = False
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    is_ready: bool = False
    is_connected: bool = True


class Sessions:
    """Answers every frame, in order and once.

    A frame that is malformed, foreign or not expected is refused and counted, and changes
    nothing; whoever sent it may go on.

    Args:
        roster: Clients by name of a site.
        on_request: Answers a request within a step or a round: name of the site, frame.
        on_join: Answers a join once the run is set up: name, description -> fields of `welcome`,
            or None while it is not.
        on_event: Is told of what happens, in a few words.

    Attributes:
        refused: Number of refused frames by site.
        num_bytes: Bytes on the wire by site and direction, "up" or "down".
        compression: Of what it answers.
    """

    def __init__(
        self,
        roster: Mapping[str, tuple[int, ...]],
        on_request: Callable[[str, Frame], Reply],
        on_join: Callable[[str, dict[str, Any]], dict[str, Any] | None],
        on_event: Callable[[str, str], None] = lambda name, event: None,
        poll_s: float = POLL_S,
    ) -> None:
        self.roster = dict(roster)
        self.refused: Counter[str] = Counter()
        self.num_bytes: Counter[tuple[str, str]] = Counter()
        self.closed: str | None = None
        self.compression: Compression | None = None
        self.poll_s = poll_s
        self._on_request, self._on_join, self._on_event = on_request, on_join, on_event
        self._sessions: dict[str, Session] = {}
        # Keys of the latest: a site may join as often as it likes, and shall fill no memory by it.
        self._displaced = {name: deque[str](maxlen=100) for name in roster}
        self._changed = threading.Condition()
        self._num_commands = 0

    # What a transport calls

    def handle(self, name: str, data: bytes) -> bytes:
        """Answer one frame of a site.

        Args:
            name: Of the site, as its certificate says.
            data: The frame.
        """
        self.num_bytes[name, "up"] += len(data)
        reply = self._handle(name, data)
        self.num_bytes[name, "down"] += len(reply)
        return reply

    def check_known(self, name: str) -> None:
        """Raise a HuscfError where the roster does not name a site."""
        if name not in self.roster:
            raise HuscfError(f"{name}: not in the roster of this server")

    def tell_process(self, name: str, data: bytes) -> Literal["new", "present"] | None:
        """Return of which process of a site a frame is.

        Args:
            name: Of the site.
            data: The frame.

        Returns:
            "new" for one that joins, "present" for the one that is known, None for another: it has
            been displaced, has not joined yet, or sends what is no frame.
        """
        try:
            header = Frame(data).header
        except FrameError:
            return None
        with self._changed:
            session = self._sessions.get(name)
            if session is not None and header.get("session") == session.key:
                return "present"
            is_displaced = header.get("session") in self._displaced[name]
        return "new" if header.get("kind") == "join" and not is_displaced else None

    def connect(self, name: str) -> None:
        """Note that a site's stream has begun.

        Raises:
            HuscfError: Where the roster does not name it.
        """
        self.check_known(name)
        with self._changed:
            if session := self._sessions.get(name):
                session.is_connected = True
                self._changed.notify_all()

    def disconnect(self, name: str) -> None:
        """Note that a site's stream has ended."""
        with self._changed:
            session = self._sessions.get(name)
            if session is not None and session.is_connected:
                session.is_connected = False
                self._on_event(name, "lost")
                self._changed.notify_all()

    # What the run calls

    def wait_for(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until something is so; return whether it is."""
        with self._changed:
            return self._changed.wait_for(is_done, timeout_s)

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self._changed:
            self._changed.notify_all()

    def present(self) -> list[str]:
        """Return the sites that are connected and have nothing left to answer, in roster order."""
        with self._changed:
            return [name for name in self.roster if self._is_present(name)]

    def is_connected(self, name: str) -> bool:
        """Return whether a site's stream is there."""
        with self._changed:
            session = self._sessions.get(name)
            return session is not None and session.is_connected

    def post(self, commands: Mapping[str, dict[str, Any]]) -> dict[str, int]:
        """Give commands to sites that are present; return the number of each command."""
        numbers: dict[str, int] = {}
        with self._changed:
            for name, command in commands.items():
                self._num_commands += 1
                session = self._sessions[name]
                session.command, session.is_sent = (self._num_commands, command), False
                session.answers.clear()
                numbers[name] = self._num_commands
            self._changed.notify_all()
        return numbers

    def collect(self, numbers: Mapping[str, int], timeout_s: float) -> dict[str, dict[str, Any]]:
        """Return the answers to commands, of the sites that answered in time.

        A site that is disconnected may return within the time and answer. One that left a command
        unanswered, as a new process of it does, is not waited for.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not any(self._is_at(name, n) for name, n in numbers.items()), timeout_s
            )
            found = {name: self._answers(name).get(n) for name, n in numbers.items()}
        return {name: answer for name, answer in found.items() if answer is not None}

    def call(
        self, commands: Mapping[str, dict[str, Any]], timeout_s: float
    ) -> dict[str, dict[str, Any]]:
        """Give commands and return the answers of the sites that answered in time."""
        return self.collect(self.post(commands), timeout_s)

    def close(self, reason: str, timeout_s: float = 0.0) -> None:
        """Answer everything by `bye` from now on; wait until all sites have heard it."""
        with self._changed:
            self.closed = reason
            waiting = {name for name, s in self._sessions.items() if s.is_connected}
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not any(self._sessions[n].is_connected for n in waiting), timeout_s
            )

    # Helpers

    def _is_present(self, name: str) -> bool:
        session = self._sessions.get(name)
        return session is not None and (
            session.is_connected and session.is_ready and session.command is None
        )

    def _is_at(self, name: str, number: int) -> bool:
        """Return whether a command may still be answered."""
        session = self._sessions.get(name)
        return session is not None and session.command is not None and session.command[0] == number

    def _answers(self, name: str) -> dict[int, dict[str, Any]]:
        session = self._sessions.get(name)
        return {} if session is None else session.answers

    def _handle(self, name: str, data: bytes) -> bytes:
        try:
            if name not in self.roster:
                raise FrameError(f"{name} is not in the roster")
            frame = Frame(data)
            check_request(frame.header)
            if frame.header["kind"] == "probe":
                return _answer_probe(frame.header)
            if frame.header["kind"] == "join":
                return self._join(name, frame)
            return self._answer_once(name, frame)
        except FrameError as error:
            return self._refuse(name, error)

    def _refuse(self, name: str, error: FrameError, seq: int = -1) -> bytes:
        self.refused[name] += 1
        count = self.refused[name]
        if count <= MAX_NOTED or count & (count - 1) == 0:  # all at first, then ever fewer
            self._on_event(name, f"refused: {error}")
        return pack({"kind": "refused", "seq": seq, "reason": str(error)[:300]})

    def _join(self, name: str, frame: Frame) -> bytes:
        """Take a new process of a site for the site; the one before is displaced."""
        header, key = frame.header, frame.header["session"]
        with self._changed:
            if key in self._displaced[name]:
                return pack({"kind": "displaced", "seq": header["seq"]})
            known = self._sessions.get(name)
            if known is None or known.key != key:
                # It draws its own key, so that a join that is repeated is the same one.
                if len(key) != 32:
                    raise FrameError("join: a session has a key of 32 signs")
                self._on_event(name, "joined" if known is None else "joined anew")
                if known is not None:
                    self._displaced[name].append(known.key)
                known = self._sessions[name] = Session(key)
                self._changed.notify_all()
        try:
            fields = self._on_join(name, header)
        except HuscfError as error:
            with self._changed:
                if self._sessions.get(name) is known:
                    del self._sessions[name]
            return self._refuse(name, FrameError(str(error)))
        if fields is None:
            with self._changed:
                self._changed.wait(self.poll_s)
            kind = "wait" if self.closed is None else "bye"
            return pack({"kind": kind, "seq": header["seq"], "reason": self.closed or ""})
        return pack({"kind": "welcome", "seq": header["seq"], **fields})

    def _answer_once(self, name: str, frame: Frame) -> bytes:
        """Answer a frame, or give the answer that it had."""
        seq = frame.header["seq"]
        with self._changed:
            session = self._sessions.get(name)
            if session is None or session.key != frame.header["session"]:
                kind = "rejoin" if session is None else "displaced"
                return pack({"kind": kind, "seq": seq})
            if seq == session.seq and (session.reply or session.is_busy):
                self._changed.wait_for(lambda: not session.is_busy)
                if not session.reply:
                    raise FrameError(f"frame {seq} was refused")
                return session.reply
            if seq != session.seq + 1 or session.is_busy:
                raise FrameError(f"frame {seq} where {session.seq + 1} is next")
            session.seq, session.is_busy, session.reply = seq, True, b""
        reply = b""
        try:
            header, tensors = self._dispatch(name, session, frame)
            reply = pack({**header, "seq": seq}, tensors, self.compression)
        except DroppedError:
            reply = pack({"kind": "dropped", "seq": seq})
        finally:
            with self._changed:
                session.is_busy, session.reply = False, reply
                if not reply:
                    session.seq = seq - 1  # refused: the next frame has its number
                self._changed.notify_all()
        return reply

    def _dispatch(self, name: str, session: Session, frame: Frame) -> Reply:
        kind = frame.header["kind"]
        if self.closed is not None or kind == "bye":
            return self._say_bye(name, session)
        if kind == "ready":
            return self._wait_for_command(name, session, frame.header)
        client_id = frame.header.get("client")
        if client_id is not None and client_id not in self.roster[name]:
            raise FrameError(f"{kind}: client {client_id} is not a client of {name}")
        return self._on_request(name, frame)

    def _wait_for_command(self, name: str, session: Session, header: dict[str, Any]) -> Reply:
        with self._changed:
            if session.command is not None and session.command[0] == header["answers"]:
                session.answers[header["answers"]] = header["answer"] or {}
                session.command = None
            elif session.is_sent:
                session.command = None  # it left a command unanswered, as after a new start
            session.is_ready = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    session.command is not None
                    or self.closed is not None
                    or self._sessions.get(name) is not session
                ),
                self.poll_s,
            )
            if self._sessions.get(name) is not session:
                return {"kind": "displaced"}, {}
            if self.closed is not None:
                return self._say_bye(name, session)
            if session.command is None:
                return {"kind": "wait"}, {}
            number, command = session.command
            session.is_sent = True
            return {**command, "number": number}, {}

    def _say_bye(self, name: str, session: Session) -> Reply:
        with self._changed:
            session.is_connected = session.is_ready = False
            self._changed.notify_all()
        return {"kind": "bye", "reason": self.closed or "goodbye"}, {}


def _answer_probe(header: Mapping[str, Any]) -> bytes:
    """Return as many bytes as a site asks for; it belongs to no session."""
    size = header["size"]
    if not 0 <= size <= MAX_PROBE:
        raise FrameError(f"probe: {size} bytes")
    return pack({"kind": "ok", "seq": header["seq"]}, {"content": torch.zeros(size // 4)})
