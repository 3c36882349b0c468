"""What ends a process in order."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop what runs inside as Ctrl-C does: as a KeyboardInterrupt."""
    with _on_sigterm(_interrupt):
        yield


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM end what runs inside, where Lightning would note it and go on, with its code."""
    with _on_sigterm(_exit):
        yield


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """Let SIGTERM or Ctrl-C stop what runs inside as a KeyboardInterrupt, once.

    A second one does not disturb what ends in order then; a third ends the process at once.
    """
    received = itertools.count(1)

    def stop(number: int, frame: FrameType | None) -> None:
        if (turn := next(received)) == 1:
            raise KeyboardInterrupt
        if turn > 2:
            os._exit(128 + number)
        with suppress(OSError):
            os.write(2, b"stopping in order; once more ends it at once\n")

    heeded = [s for s in _SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in heeded}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
