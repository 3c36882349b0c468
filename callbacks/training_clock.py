"""How long a run has trained, and nothing else."""

import time


class TrainingClock:
    """The seconds of training alone: steps and federation, not what is measured, drawn or saved."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._began: float | None = None

    def start(self) -> None:
        """Count from now on."""
        self._began = time.monotonic()

    def stop(self, at: float | None = None) -> None:
        """Count no more from a moment on, None is now."""
        if self._began is not None:
            until = time.monotonic() if at is None else at
            self._seconds += max(0.0, until - self._began)
        self._began = None

    def take(self, at: float) -> float:
        """Return the seconds until a moment, stop there, and begin at zero."""
        self.stop(at)
        seconds, self._seconds = self._seconds, 0.0
        return seconds
