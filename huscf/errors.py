"""The errors that a user can mend: each is one line that names the thing and the remedy."""

import math
import sys
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any


class HuscfError(ValueError):
    """Bad input of any kind; the command line prints its message alone and exits with 2."""


class PlanError(HuscfError):
    """A cut plan that does not fit the networks, the clients or the devices."""


class DataError(HuscfError):
    """Data that is missing, malformed or too little for the clients that shall share it."""


class CheckpointError(HuscfError):
    """A checkpoint that is damaged, missing, or of another run's hyper-parameters."""


class NonFiniteError(HuscfError):
    """A NaN or Inf loss, activation or gradient that came from one client.

    Args:
        client_id: Whose.
        what: What is not finite.
    """

    def __init__(self, client_id: int, what: str) -> None:
        super().__init__(f"client {client_id}: {what}")
        self.client_id = client_id


def check_number(
    name: str, value: float, least: float = 0.0, most: float = math.inf, *, is_open: bool = False
) -> None:
    """Raise a HuscfError unless a number is finite and within a range.

    Args:
        name: Of the option, as a user writes it.
        value: What was given.
        least: The smallest that is accepted.
        most: The largest.
        is_open: Whether the smallest itself is refused.
    """
    is_number = isinstance(value, Real) and abs(value) <= sys.float_info.max
    if not is_number or not least <= value <= most or (is_open and value == least):
        limits = [] if math.isinf(least) else [f"{'>' if is_open else '>='} {least:g}"]
        limits += [] if math.isinf(most) else [f"<= {most:g}"]
        kind = "" if is_number and isinstance(value, Integral) else "a finite number "
        raise HuscfError(f"{name} is {value}, must be {kind}{' and '.join(limits)}".rstrip())


def check_count(name: str, value: int, least: int = 0, most: float = math.inf) -> None:
    """Raise a HuscfError unless a value is a whole number within a range; see check_number."""
    check_number(name, value, least, most)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise HuscfError(f"{name} is {value}, must be a whole number")


def find_refusal(error: BaseException) -> HuscfError:
    """Return what a class refused, out of the parser's own words around it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, HuscfError):
        found = found.__cause__ or found.__context__
    if found is not None:
        return found
    while error.__cause__ is not None:
        error = error.__cause__
    reason = " ".join(str(error).split()) or type(error).__name__
    return HuscfError(f"the configuration is refused: {reason}")


def make_printable(text: str) -> str:
    """Return text with signs that steer a terminal, which a file's names may hold, written out."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text
    )


def check_complete(saved: Mapping[str, Any], expected: Iterable[str]) -> None:
    """Raise a CheckpointError that names what a saved state lacks, as an older version's does."""
    if missing := sorted(set(expected) - saved.keys()):
        raise CheckpointError(
            f"not a checkpoint of this version of huscf: it lacks {', '.join(missing)}; "
            "train anew, or go on with the version that wrote it"
        )
