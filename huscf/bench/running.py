"""Runs the cells of a grid one after the other, each in a process of its own."""

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import HuscfError, make_printable
from ..resuming import find_newest
from ..whole_files import write_text
from .grid import Cell

#: Longest line of a run that failed.
_MAX_REASON = 300

Report = Callable[[str], None]


def check_cells(cells: Sequence[Cell], output: Path) -> None:
    """Let the command line read what every cell asks for, before anything runs.

    Raises:
        HuscfError: Naming the run, and the key that does not exist or the value that does not fit.
    """
    known: set[str] = set()
    for cell in cells:
        if cell.variant in known:
            continue
        known.add(cell.variant)
        if reason := _find_fault(["fit", *cell.options(output), "--print_config"]):
            raise HuscfError(f"{cell.name}: {reason}; nothing was run")


def run_cells(cells: Sequence[Cell], output: Path, report: Report = print) -> int:
    """Run what is not done yet; return how many have failed.

    A run that was interrupted goes on from its last checkpoint; one that failed is one line, and
    is tried again the next time.

    Args:
        cells: All of the grid.
        output: Folder of the bench.
        report: Takes a line per cell.
    """
    failed = 0
    for number, cell in enumerate(cells, 1):
        before = f"[{number}/{len(cells)}] {cell.name}: "
        options = cell.options(output)
        path = output / "cells" / f"{cell.name}.json"
        known = _read_record(path)
        if known.get("options") == options and known.get("status") == "done":
            report(f"{before}done before")
            continue
        checkpoint = None
        if known.get("options") == options and (folder := find_folder(cell, output)):
            checkpoint = find_newest(folder)
        record: dict[str, Any] = {"options": options, "status": "started"}
        _write_record(path, record)
        started = time.monotonic()
        reason = _run(options, checkpoint)
        seconds = time.monotonic() - started
        record |= {"status": "failed" if reason else "done", "seconds": seconds, "reason": reason}
        _write_record(path, record)
        failed += bool(reason)
        report(before + (f"failed: {reason}" if reason else f"done in {seconds:.0f} s"))
    return failed


def find_folder(cell: Cell, output: Path) -> Path | None:
    """Return the newest folder of a cell's run, or None."""
    numbered = {
        int(folder.name.rpartition("-")[2]): folder
        for folder in (output / "runs").glob(f"{cell.name}-*")
        if folder.name.rpartition("-")[0] == cell.name and folder.name.rpartition("-")[2].isdigit()
    }
    return numbered[max(numbered)] if numbered else None


def is_done(cell: Cell, output: Path) -> bool:
    """Return whether a cell's run has ended well, as it is asked for now."""
    known = _read_record(output / "cells" / f"{cell.name}.json")
    return known.get("status") == "done" and known.get("options") == cell.options(output)


def find_reason(cell: Cell, output: Path) -> str:
    """Return why a cell's run failed, "" where it did not."""
    known = _read_record(output / "cells" / f"{cell.name}.json")
    return str(known.get("reason", "")) if known.get("status") == "failed" else ""


def _run(options: Sequence[str], checkpoint: Path | None) -> str:
    """Train; return the last line of what went wrong, "" where nothing did."""
    command = [sys.executable, "-m", "huscf", "fit", *options]
    command += [] if checkpoint is None else [f"--ckpt_path={checkpoint}"]
    command.append("--trainer.enable_progress_bar=false")
    ended = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode == 0:
        return ""
    return _last_line(ended.stderr) or f"it ended with exit code {ended.returncode}"


def _find_fault(arguments: list[str]) -> str:
    """Return what the command line refuses of these arguments, "" where nothing."""
    from ..cli import run

    errors = io.StringIO()
    try:
        with _captured(errors):
            run(arguments)
    except SystemExit as ended:
        return _last_line(errors.getvalue()) if ended.code else ""
    except HuscfError as error:
        return make_printable(str(error))
    return ""


@contextlib.contextmanager
def _captured(errors: io.StringIO) -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        yield


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else ""
    return make_printable(line.removeprefix("huscf: error: "))[:_MAX_REASON]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_record(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1))
