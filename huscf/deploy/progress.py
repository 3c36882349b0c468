"""Lines of a run: how far it is, now and then, and all of them in a file."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..activity import describe_duration

#: One line for every event of a run at the server.
LOG = "server.log"
#: The goodbye of a run that has come to its end; every other one is of a run that has not.
ENDED = "the run has ended"


class Progress:
    """Says when it is time for a line, and how long the run still takes.

    Args:
        pause_s: Seconds between two lines.
    """

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self._said = time.monotonic()
        self.begin(0)

    def begin(self, step: int) -> None:
        """Measure from here: training goes on after so many steps."""
        self._first, self._began = step, time.monotonic()

    def is_due(self) -> bool:
        """Return whether it is time for a line, once for each."""
        if is_due := time.monotonic() - self._said >= self.pause_s:
            self._said = time.monotonic()
        return is_due

    def describe(self, step: int, ends: Iterable[int]) -> str:
        """Return the step, of how many, and how long those that are left take.

        Args:
            step: So many are done.
            ends: After which the run ends, whichever comes first; negative ones are none.
        """
        known = [end for end in ends if end >= 0]
        if not known or step <= self._first:
            return f"step {step}"
        pace_s = (time.monotonic() - self._began) / (step - self._first)
        left_s = pace_s * (min(known) - step)
        return f"step {step} of {min(known)}, {describe_duration(left_s)} left"


def note_in(path: Path, say: Callable[[str], None]) -> Callable[[str], None]:
    """Return what says a line and adds it to a file, with date and time."""

    def note(line: str) -> None:
        say(line)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")

    return note
