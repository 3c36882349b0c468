"""A site's way to the server, whatever carries frames: it repeats a frame until it is answered."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..errors import HuscfError

#: The largest frame, in bytes: it holds one block with its moments, or one batch at a cut.
MAX_FRAME = 512 << 20
#: Seconds after which a site takes a server that does not answer for lost.
ANSWER_S = 60.0
#: Seconds between two attempts to reach the server: twice as long each time, up to the second.
BACKOFF_S = (0.5, 30.0)


class NoAnswer(Exception):
    """The server has not answered, for a reason in a few words; the frame may be sent again."""


class PatientExchange(ABC):
    """Carries frames to the server; one that is not answered is sent again, with growing pauses.

    Args:
        server: Its name, for messages.
        patience_s: It gives up where the server cannot be reached for so long.
        on_event: Is told of what happens, in a few words.
    """

    def __init__(
        self,
        server: str,
        patience_s: float = 600.0,
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        self.server, self.patience_s, self._on_event = server, patience_s, on_event

    def __call__(self, data: bytes) -> bytes:
        """Carry a frame to the server, and return its answer.

        Raises:
            HuscfError: Where the server cannot be reached, or does not let this site in.
        """
        started, wait_s = time.monotonic(), BACKOFF_S[0]
        while True:
            try:
                return self.exchange(data)
            except NoAnswer as error:
                self.close()
                reason = str(error)
                if time.monotonic() - started > self.patience_s:
                    raise HuscfError(f"{self.server}: cannot be reached: {reason}") from error
            self._on_event(f"no connection ({reason}); again in {wait_s:.1f} s")
            time.sleep(wait_s * random.uniform(0.8, 1.2))  # not all sites at once
            wait_s = min(2 * wait_s, BACKOFF_S[1])

    @abstractmethod
    def exchange(self, data: bytes) -> bytes:
        """Carry a frame once.

        Raises:
            NoAnswer: Where it may be sent again.
            HuscfError: Where the server does not let this site in.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave what may have been opened; the next frame opens it anew."""
