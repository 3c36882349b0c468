"""Sites as processes of this machine, for a try."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .kits import SECRET

#: Of each client and class, so that a try ends with something to look at.
NUM_SAMPLES = 10


class LocalSite:
    """A process that joins as a site.

    Args:
        process: It.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def wait_or_end(self, timeout_s: float) -> None:
        """Wait until it has ended by itself, or end it."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()


def start_sites(
    kit: Path,
    roster: Mapping[str, Sequence[int]],
    port: int,
    folder: Path,
    options: Sequence[str],
) -> list[LocalSite]:
    """Start a process for every site; each reads the whole data and uses its own clients' alone.

    Without secrets, so that the run is that of `huscf fit` in one process.

    Args:
        kit: Folder of the kits.
        roster: Clients by name of a site.
        port: The server's on this machine.
        folder: Of the run; the sites' halves are kept in `folder/sites`.
        options: Configuration of the data.
    """
    sites = []
    for name, clients in roster.items():
        (kit / name / SECRET).unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", "huscf", "join", *options),
            *("--tls", str(kit / name), "--address", f"localhost:{port}"),
            *("--output", str(folder / "sites" / name), "--num_threads", "1"),
            *("--samples", str(NUM_SAMPLES)),
            *("--clients", *map(str, clients)),
        ]
        sites.append(LocalSite(subprocess.Popen(command, env={**os.environ})))
    return sites
