"""Which fields a header has, and of which types they are."""

from collections.abc import Mapping
from typing import Any

from ...wire.frames import FrameError

#: Of one field: a type; `[int]`, a list of any length; `(int, str)`, a list of just these; or
#: `{dict, None}`, one of several.
Spec = Any
#: Specifications by name.
Fields = Mapping[str, Spec]


def check_fields(what: str, header: Mapping[str, Any], wanted: Fields) -> None:
    """Raise a FrameError unless a header has these fields and no others, as they are specified.

    Args:
        what: The kind of the frame, for the message.
        header: The frame's.
        wanted: The specification of every field.
    """
    if wrong := sorted(str(name) for name in header.keys() ^ wanted.keys()):
        raise FrameError(f"{what}: the field {wrong[0]!r:.40} is missing or not known")
    for name, spec in wanted.items():
        if not _fits(header[name], spec):
            raise FrameError(f"{what}: {name} is no {_spell(spec)}")


def _fits(value: object, spec: Spec) -> bool:
    if isinstance(spec, list):
        return isinstance(value, list) and all(_fits(entry, spec[0]) for entry in value)
    if isinstance(spec, tuple):
        if not isinstance(value, list) or len(value) != len(spec):
            return False
        return all(_fits(entry, own) for entry, own in zip(value, spec, strict=True))
    if isinstance(spec, set):
        return any(_fits(value, own) for own in spec)
    return value is None if spec is None else type(value) is spec


def _spell(spec: Spec) -> str:
    if isinstance(spec, list):
        return f"list of {_spell(spec[0])}"
    if isinstance(spec, tuple):
        return f"[{', '.join(map(_spell, spec))}]"
    if isinstance(spec, set):
        return " or ".join(sorted(map(_spell, spec)))
    return "null" if spec is None else str(spec.__name__)
