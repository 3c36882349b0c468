"""Refuses numbers that an option cannot have, in one line that names it."""

import math
from numbers import Integral, Real

from ..errors import DataError


def check_number(
    name: str, value: float, low: float, high: float = math.inf, *, is_open: bool = False
) -> None:
    """Raise a DataError unless the value is finite and in [low, high].

    Args:
        name: The option, as a user writes it.
        value: What was given.
        low: Least value.
        high: Largest value.
        is_open: Whether low itself is refused, too.
    """
    is_number = isinstance(value, Real) and math.isfinite(value)
    if not is_number or not low <= value <= high or (is_open and value == low):
        interval = f"in {'(' if is_open else '['}{low}, {high}]"
        at_least = f"{'>' if is_open else '>='} {low}{' and finite' if value == math.inf else ''}"
        allowed = at_least if high == math.inf else interval
        raise DataError(f"{name} is {value}, must be {allowed}")


def check_count(name: str, value: int, least: int, most: float = math.inf) -> None:
    """Raise a DataError unless the value is a whole number in [least, most]."""
    check_number(name, value, least, most)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise DataError(f"{name} is {value}, must be a whole number")
