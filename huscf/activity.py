"""What a program is busy with, told to whoever shows it: "measuring digits 1/2"."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Activity:
    """One thing that takes a while.

    Args:
        text: What it is, as "training the judge of digits".
        is_once: Whether it is done once in a run, and may take as long as many rounds.
    """

    text: str
    is_once: bool = False


#: Takes what goes on, outermost first; () when it is over.
Watcher = Callable[[tuple[Activity, ...]], None]

_watchers: list[Watcher] = []
_running: list[Activity] = []


@contextmanager
def doing(text: str, is_once: bool = False) -> Iterator[None]:
    """Tell all watchers what is done until the block ends; costs nothing where nobody watches.

    Args:
        text: What it is.
        is_once: As of Activity.
    """
    activity = Activity(text, is_once)
    _running.append(activity)
    _tell()
    try:
        yield
    finally:
        _running.remove(activity)
        _tell()


def watch(watcher: Watcher) -> None:
    """Tell somebody from now on."""
    if watcher not in _watchers:
        _watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Tell them no more."""
    if watcher in _watchers:
        _watchers.remove(watcher)


class OnceClock:
    """Adds up the seconds of what is done once in a run, so that a pace can leave them out."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far, those of what still goes on among them."""
        return self._seconds + (0.0 if self._began is None else time.monotonic() - self._began)

    def __call__(self, running: tuple[Activity, ...]) -> None:
        """Note what goes on; give this to `watch`."""
        is_on = any(activity.is_once for activity in running)
        if is_on and self._began is None:
            self._began = time.monotonic()
        elif not is_on and self._began is not None:
            self._seconds, self._began = self.seconds, None


def describe_duration(seconds: float) -> str:
    """Return a duration as people say it: "40 s", "3 min", "2 h 5 min".

    Args:
        seconds: At least 0.
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def _tell() -> None:
    running = tuple(_running)
    for watcher in list(_watchers):
        watcher(running)
