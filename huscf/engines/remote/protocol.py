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
from typing import Any

from torch import Tensor

from ...wire.frames import Frame, FrameError
from .fields import Fields, between, check_fields, different, fraction, natural_number, one_of

#: Asks the server: kind, fields, tensors -> its answer.
Ask = Callable[[str, Mapping[str, Any], Mapping[str, Tensor]], Frame]
#: What a request is answered by: fields of the header, and tensors.
Reply = tuple[dict[str, Any], Mapping[str, Tensor]]

#: Version of the frames; both ends have the same.
PROTOCOL = 6
#: The largest content of a probe, in bytes.
MAX_PROBE = 4 << 20
#: A site draws at most so many samples of a class to measure them.
MAX_PER_CLASS = 100_000

#: A client's number. Two of a list are not the same where a repeat would count twice.
_CLIENT = natural_number
_CLIENTS = different(natural_number)
#: A block: client, holding, network and index.
_REF = (natural_number, str, str, natural_number)
_CLUSTERS = [(natural_number, natural_number)]
#: Public keys, shares or whatever else members of secure sums send one another, by client.
SEALED = [(natural_number, bytes)]
#: Of a run, a round, a phase, an epoch: where a frame belongs.
_PLACE = natural_number

#: Of every request: the fields of its header, beside kind, seq and session.
REQUESTS: dict[str, Fields] = {
    "probe": {"size": int},
    "join": {
        **{"protocol": int, "version": str, "clients": list, "shape": list},
        "device": {dict, None},
    },
    "ready": {"answers": natural_number, "answer": {dict, None}},
    "observe": {"client": _CLIENT, "step": _PLACE},
    "statistics": {"client": _CLIENT, "samples": natural_number},
    "forward": {"step": _PLACE, "phase": _PLACE, "runs": [(_CLIENT, str)]},
    "backward": {"step": _PLACE, "phase": _PLACE, "runs": [(_CLIENT, str)]},
    "records": {"step": _PLACE, "counts": [(_CLIENT, int)]},
    "norms": {"client": _CLIENT, "step": _PLACE, "phase": _PLACE},
    "draw": {"client": _CLIENT, "network": str, "count": natural_number},
    "finish": {
        "step": _PLACE,
        "phase": _PLACE,
        "losses": [(_CLIENT, float)],
        "failed": [(_CLIENT, str)],
    },
    "block": {"refs": [_REF]},
    "fetch": {"refs": [_REF]},
    "bye": {},
}
#: Of every command: the fields of its header, beside kind, seq and number.
COMMANDS: dict[str, Fields] = {
    "step": {
        **{"step": _PLACE, "round": _PLACE, "clients": _CLIENTS, "observe": _CLIENTS},
        "in_turn": bool,
    },
    "close": {"round": _PLACE},
    "give": {
        "blocks": different(_REF),
        "moments": bool,
        "as": one_of("blocks", "moved_blocks"),
    },
    "take": {"blocks": different(_REF), "forget": _CLIENTS},
    "measure": {},
    "move": {"cuts": [(_CLIENT, [natural_number])]},
    "save": {"step": _PLACE},
    "sum_keys": {"clients": _CLIENTS},
    "sum_shares": {"groups": [SEALED]},
    "sum_give": {
        "sealed": [(_CLIENT, SEALED)],
        "weights": [(_CLIENT, fraction)],
        "parts": [(str, str, natural_number, _CLIENTS)],
    },
    "sum_reveal": {"survivors": _CLIENTS},
    "evaluate": {"num_per_class": between(1, MAX_PER_CLASS), "full": bool},
    "sample": {"clusters": _CLUSTERS},
    "keep": {"clusters": _CLUSTERS, "rounds": _PLACE, "step": _PLACE},
}
#: Of a welcome, beside kind and seq.
WELCOME: Fields = {
    **{"run": str, "method": dict, "seed": natural_number, "weights": str},
    "shape": (natural_number, natural_number, natural_number),
    "blocks": [(str, natural_number)],
    "cuts": [(_CLIENT, [natural_number])],
    **{"compression": {str, None}, "wire": {dict, None}, "step": _PLACE, "new": bool},
    **{"secure": bool, "comparison": dict, "privacy": {dict, None}, "replans": bool},
}
_DROPPING: dict[str, Fields] = {"ok": {"dropped": _CLIENTS}}
#: What a request may be answered by: kinds, and the fields beside kind and seq; a join by a welcome
#: or `wait`.
ANSWERS: dict[str, dict[str, Fields]] = {
    **{kind: {"ok": {}} for kind in REQUESTS.keys() - {"join"}},
    "forward": _DROPPING,
    "backward": _DROPPING,
    "finish": {"wait": {}, "commit": {"clients": _CLIENTS, "loss": float}},
    "ready": {
        "wait": {},
        **{kind: {"number": natural_number, **fields} for kind, fields in COMMANDS.items()},
    },
}
_COMMON: Fields = {"kind": str, "seq": int}
#: Requests that a site which is late may be dropped for.
DROPPABLE = REQUESTS.keys() - {"probe", "join", "ready", "bye"}


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
    check_fields(str(kind), header, {**_COMMON, "session": str, **fields})


def check_answer(asked: str, header: Mapping[str, Any]) -> None:
    """Raise a FrameError unless a request of this kind may have an answer with this header."""
    if asked not in ANSWERS:
        return
    kind = header.get("kind")
    fields = ANSWERS[asked].get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise FrameError(f"the server answered {asked!r} by {kind!r:.40}, unknown to this version")
    check_fields(f"the server's {kind!r}", header, {**_COMMON, **fields})


def read_runs(entries: list[Any]) -> list[tuple[int, str]]:
    """Return the runs of a frame, from pairs of client and name of a pass; each is there once."""
    runs = [(client_id, name) for client_id, name in entries]
    if not runs or len(set(runs)) < len(runs):
        raise FrameError("no run is named, or one twice")
    return runs


def read_losses(entries: list[Any]) -> dict[int, float]:
    """Return losses by client, from pairs of both."""
    found = dict(entries)
    if not all(map(math.isfinite, found.values())):
        raise FrameError("a loss is NaN or Inf")
    return found


def read_failures(entries: list[Any]) -> dict[int, str]:
    """Return what was not finite by client, from pairs of both."""
    return {client_id: reason[:200] for client_id, reason in entries}
