"""One process at a time writes a run."""

import contextlib
import errno
import getpass
import json
import os
import socket
import sys
import time
from pathlib import Path

from .errors import HuscfError

NAME = "run.lock"


class RunLock:
    """A file in a run's folder that names who writes there.

    The system's own lock on that file tells whether the holder is alive: it ends with the process,
    however that ends, so that what a killed one left is taken over.

    Args:
        folder: The run's folder.

    Raises:
        HuscfError: Naming the process that writes the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._file = self._open(folder)
        os.ftruncate(self._file, 0)
        os.write(self._file, json.dumps(_describe_self()).encode())

    def release(self, is_done: bool = True) -> None:
        """Let others write the run.

        Args:
            is_done: Whether the run came to its end; else the file stays, as it does when the
                process is killed, and `is_open` tells.
        """
        if self._file < 0:
            return
        if is_done:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                self.path.unlink()
        os.close(self._file)
        self._file = -1

    def _open(self, folder: Path) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            if not _try_lock(file):
                holder = _read_holder(self.path)
                os.close(file)
                raise HuscfError(
                    f"run folder {folder}: {holder} writes it; wait until that ends, or begin a "
                    "new run without --ckpt_path"
                )
            # Its holder may have removed the file between opening and locking it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), self.path.stat()):
                    return file
            os.close(file)


def is_open(folder: Path) -> bool:
    """Return whether somebody writes a run, or it did not come to its end."""
    return (folder / NAME).exists()


def _try_lock(file: int) -> bool:
    """Lock an open file; return False where another process has, True where locks are unknown."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 2**20, os.SEEK_SET)  # what is locked cannot be read there
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True


def _describe_self() -> dict[str, str | int]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = "?"
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "user": user, "since": since}


def _read_holder(path: Path) -> str:
    """Return who holds a lock, in words; a file that is just being written tells nothing."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return "process {pid} of {user} on {host}, since {since},".format(**holder)
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
