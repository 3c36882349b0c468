"""Which software, machine and command a run is of, kept in its folder as provenance.json."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .bounded_files import read_bytes
from .errors import HuscfError, make_printable
from .whole_files import write_text

NAME = "provenance.json"
MAX_BYTES = 2**20
#: Values of a file that may be anybody's are cut to so many signs.
MAX_SIGNS = 2000
#: Keys of an entry in the order of tables.
KEYS = (
    *("date", "from_round", "command", "huscf", "commit", "python", "torch", "lightning"),
    *("system", "cpu", "cores", "gpu"),
)

Entry = dict[str, str]


def note_start(folder: Path, from_round: int) -> None:
    """Add an entry for this process to a run's folder.

    Args:
        folder: The run's.
        from_round: Rounds that have ended before; 0 where the run begins.

    Raises:
        HuscfError: Naming the file, where an earlier one is damaged.
    """
    entry = {"date": _tell_time(), "from_round": str(from_round), **describe_process()}
    entries = [*read_provenance(folder), entry]
    write_text(folder / NAME, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def read_provenance(folder: Path) -> list[Entry]:
    """Return a run's entries, the first one first; [] where there is no file.

    Raises:
        HuscfError: Naming the file, where it is damaged.
    """
    path = folder / NAME
    try:
        entries = json.loads(read_bytes(path, folder, MAX_BYTES))
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError) as error:
        raise HuscfError(f"{path}: damaged, move it away: {str(error).splitlines()[0]}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise HuscfError(f"{path}: damaged, move it away: needs a list of entries")
    return [{key: _clip(entry[key]) for key in KEYS if key in entry} for entry in entries]


def describe_process() -> Entry:
    """Return command, versions, commit and machine of this process; no name of a host or user."""
    return {
        "command": _tell_command(),
        "huscf": version("huscf"),
        "commit": find_commit(Path(__file__).resolve().parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _find_cpu(),
        "cores": str(_count_cores()),
        "gpu": _list_gpus(),
    }


def find_commit(package: Path) -> str:
    """Return the commit of a package's checkout, "-dirty" with changes, or "" without one."""
    root = package.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _tell_time() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _tell_command() -> str:
    program = Path(sys.argv[0])
    is_own = program.stem == "huscf" or program.parts[-2:] == ("huscf", "__main__.py")
    return shlex.join(["huscf" if is_own else program.name, *sys.argv[1:]])


def _find_cpu() -> str:
    """Return the processor's model; elsewhere than on Linux what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _count_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _list_gpus() -> str:
    if not torch.cuda.is_available():
        return ""
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _clip(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return make_printable(text)[:MAX_SIGNS]
