"""Bad input, counted and named: either the run stops, or the samples are left out."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from ..errors import DataError

OnBadData = Literal["fatal", "skip"]

_NAMED = 5


class BadInput(NamedTuple):
    """One file, row or key that cannot be used.

    Args:
        reason: What is wrong with it; equal reasons are counted together.
        name: Which one: a path below the data folder, a row, a key.
    """

    reason: str
    name: str


class BadSampleError(DataError):
    """One sample that cannot be used; the message is the reason, without the sample's name."""


class PassingError(BadSampleError):
    """A sample that cannot be used now, but perhaps later: no rights, no decoder, no network.

    It is not kept in the cache.
    """


def settle_bad_data(where: str, bad: Sequence[BadInput], on_bad_data: OnBadData) -> None:
    """Stop or warn, in one line that counts and names what was found; nothing where none was.

    Args:
        where: The domain or source.
        bad: What was found; the first five of each reason are named.
        on_bad_data: "fatal" stops, "skip" warns (the caller leaves the samples out).

    Raises:
        DataError: If on_bad_data is "fatal" and anything was found.
    """
    if not bad:
        return
    message = f"{where}: {len(bad)} bad inputs: {summarize(bad)}"
    if on_bad_data == "fatal":
        raise DataError(f"{message}. Mend them, or leave them out with on_bad_data: skip")
    rank_zero_warn(f"{message}. They are left out", stacklevel=6)


def summarize(bad: Sequence[BadInput]) -> str:
    """Return what was found by reason, counted, the first five of each named."""
    names: dict[str, list[str]] = {}
    for reason, name in bad:
        names.setdefault(reason, []).append(name)
    return "; ".join(
        f"{len(found)} x {reason} ({', '.join(found[:_NAMED])}{', ...' * (len(found) > _NAMED)})"
        for reason, found in names.items()
    )
