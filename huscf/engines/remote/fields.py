"""Which fields a header has, and what they may be."""

from collections.abc import Callable, Mapping
from typing import Any

from ...wire.frames import FrameError

#: Of one field: a type; `[int]`, a list of any length; `(int, str)`, a list of just these;
#: `{dict, None}`, one of several; or a function that returns whether a value is one.
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
        if not fits(header[name], spec):
            raise FrameError(f"{what}: {name} is no {_spell(spec)}")


def between(low: int, high: int) -> Callable[[object], bool]:
    """Return what says whether a value is a whole number in a range, both ends in it."""

    def is_within(value: object) -> bool:
        return type(value) is int and low <= value <= high

    return _named(is_within, f"whole number from {low} to {high}")


def one_of(*texts: str) -> Callable[[object], bool]:
    """Return what says whether a value is one of some texts."""
    return _named(lambda value: type(value) is str and value in texts, " or ".join(texts))


def different(spec: Spec) -> Callable[[object], bool]:
    """Return what says whether a value is a list of what is specified, without repeats."""

    def is_list(value: object) -> bool:
        if not isinstance(value, list) or not fits(value, [spec]):
            return False
        return len({str(entry) for entry in value}) == len(value)

    return _named(is_list, f"list of different {_spell(spec)}")


def _named(check: Callable[[object], bool], name: str) -> Callable[[object], bool]:
    check.__name__ = name
    return check


#: From 0 to below 2^40.
natural_number = _named(lambda value: type(value) is int and 0 <= value < 1 << 40, "natural number")
#: A floating-point number.
fraction = _named(lambda value: type(value) is float and 0 <= value <= 1, "number from 0 to 1")


def fits(value: object, spec: Spec) -> bool:
    """Return whether a value is what is specified."""
    if isinstance(spec, list):
        return isinstance(value, list) and all(fits(entry, spec[0]) for entry in value)
    if isinstance(spec, tuple):
        if not isinstance(value, list) or len(value) != len(spec):
            return False
        return all(fits(entry, own) for entry, own in zip(value, spec, strict=True))
    if isinstance(spec, set):
        return any(fits(value, own) for own in spec)
    if spec is None or isinstance(spec, type):
        return value is None if spec is None else type(value) is spec
    return bool(spec(value))


def _spell(spec: Spec) -> str:
    if isinstance(spec, list):
        return f"list of {_spell(spec[0])}"
    if isinstance(spec, tuple):
        return f"[{', '.join(map(_spell, spec))}]"
    if isinstance(spec, set):
        return " or ".join(sorted(map(_spell, spec)))
    return "null" if spec is None else str(spec.__name__)
