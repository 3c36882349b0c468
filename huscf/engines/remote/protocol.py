"""What a site may ask of the server, and what the server may answer.

A site asks and the server answers, one frame at a time. A request has a number; one that is
repeated gets the answer that it had. Between steps a site says `ready`, with its answer to the
last command, and the server's answer is the next command, or `wait` after some seconds, so that
no stream is idle for long.

    site                               server
    probe (bytes, to time a link)      ok, with as many bytes as were asked for
    join (who, how much data)          welcome (method, cuts, seed, where the run stands)
    ready (answer to a command)        wait, or a command:
                                         step      run a step: the frames below
                                         close     say whose blocks are finite; sums: `statistics`
                                         give      send these blocks: `block`
                                         take      get these blocks: `fetch`
                                         measure   say what the device can do: `probe`
                                         move      take over new cuts: `fetch` for blocks
                                         save      write the own half
                                         sum_*     secure sums (secure_sums.py): `block`
                                         evaluate  measure the own samples: `draw` for them
                                         sample    draw samples of the finished run: `draw`
                                         keep      keep a whole generator: `fetch` for its blocks
                                         bye       leave, with the reason
    observe                            ok; or dropped: out of this step
    forward, backward (of some runs,   ok, with tensors and who is dropped; or dropped: all are
      a client's pass each)
    records (how many, of each client) ok
    norms (none, then factors)         ok, with records' squared norms at the server; then without
    finish (losses of a phase)         commit: step your networks; wait; or dropped
    block, fetch, draw, statistics     ok
    bye                                bye

Any request may be answered by `refused` (with the reason), `rejoin` (the server does not know this
session, as after a restart) or `displaced` (another process joined under this name).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from ...wire.frames import Frame, FrameError

ValueT = TypeVar("ValueT")
#: Asks the server: kind, fields, tensors -> its answer.
Ask = Callable[[str, Mapping[str, Any], Mapping[str, Tensor]], Frame]
#: What a request is answered by: fields of the header, and tensors.
Reply = tuple[dict[str, Any], Mapping[str, Tensor]]

#: Version of the frames; both ends have the same.
PROTOCOL = 5
#: The largest content of a probe, in bytes.
MAX_PROBE = 4 << 20

_INT, _TEXT, _LIST, _MAP = (int,), (str,), (list,), (dict,)

#: Of every request: names and types of the fields of its header, beside kind, seq and session.
REQUESTS: dict[str, dict[str, tuple[type, ...]]] = {
    "probe": {"size": _INT},
    "join": {
        **{"protocol": _INT, "version": _TEXT, "clients": _LIST, "shape": _LIST},
        "device": (dict, type(None)),
    },
    "ready": {"answers": _INT, "answer": (dict, type(None))},
    "observe": {"client": _INT, "step": _INT},
    "statistics": {"client": _INT, "samples": _INT},
    "forward": {"step": _INT, "phase": _INT, "runs": _LIST},
    "backward": {"step": _INT, "phase": _INT, "runs": _LIST},
    "records": {"step": _INT, "counts": _LIST},
    "norms": {"client": _INT, "step": _INT, "phase": _INT},
    "draw": {"client": _INT, "network": _TEXT, "count": _INT},
    "finish": {"step": _INT, "phase": _INT, "losses": _LIST, "failed": _LIST},
    "block": {"refs": _LIST},
    "fetch": {"refs": _LIST},
    "bye": {},
}
_COMMON = {"kind": _TEXT, "seq": _INT, "session": _TEXT}


class Dropped(Exception):
    """The site was late for a step, or what it sent was refused for not being finite."""


class Dismissed(Exception):
    """The server has said goodbye.

    Args:
        reason: In its words.
    """


def check_request(header: Mapping[str, Any]) -> None:
    """Raise a FrameError unless a header is that of a request: no field too few or too many."""
    kind = header.get("kind")
    fields = REQUESTS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise FrameError(f"no request is of kind {kind!r:.40}")
    wanted = {**_COMMON, **fields}
    if wrong := sorted(str(name) for name in header.keys() ^ wanted.keys()):
        raise FrameError(f"{kind}: the field {wrong[0]!r:.40} is missing or not known")
    for name, types in wanted.items():
        if type(header[name]) not in types:
            raise FrameError(f"{kind}: {name} is a {type(header[name]).__name__}")


def read_runs(entries: list[Any]) -> list[tuple[int, str]]:
    """Return the runs of a frame, from pairs of client and name of a pass; each is there once."""
    if not entries or not all(_is_pair(entry, str) for entry in entries):
        raise FrameError("runs are pairs of client and pass")
    runs = [(client_id, name) for client_id, name in entries]
    if len(set(runs)) < len(runs):
        raise FrameError("a run is there twice")
    return runs


def read_counts(entries: list[Any]) -> dict[int, int]:
    """Return numbers of records by client, from pairs of both."""
    return _read_pairs(entries, int, "records are pairs of client and number")


def read_losses(entries: list[Any]) -> dict[int, float]:
    """Return losses by client, from pairs of both."""
    found = _read_pairs(entries, float, "losses are pairs of client and number")
    if not all(map(math.isfinite, found.values())):
        raise FrameError("a loss is NaN or Inf")
    return found


def read_failures(entries: list[Any]) -> dict[int, str]:
    """Return what was not finite by client, from pairs of both."""
    found = _read_pairs(entries, str, "failures are pairs of client and text")
    return {client_id: reason[:200] for client_id, reason in found.items()}


def _read_pairs(entries: list[Any], kind: type[ValueT], wanted: str) -> dict[int, ValueT]:
    found: dict[int, ValueT] = {}
    for entry in entries:
        if not _is_pair(entry, kind):
            raise FrameError(wanted)
        found[entry[0]] = entry[1]
    return found


def _is_pair(entry: object, kind: type) -> bool:
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    return type(entry[0]) is int and type(entry[1]) is kind
