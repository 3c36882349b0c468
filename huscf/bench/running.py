"""Runs the cells of a grid, some side by side, each in a process of its own."""

import contextlib
import io
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import yaml

from ..activity import describe_duration
from ..callbacks.budget import Budget
from ..errors import HuscfError, make_printable
from ..resuming import find_newest
from .grid import Cell
from .records import (
    DIGEST,
    find_folder,
    find_restart,
    is_done,
    is_same,
    is_trained,
    list_folders,
    read_record,
    write_record,
)

#: Longest line of a run that failed.
_MAX_REASON = 300

#: Seconds after which an interrupted run is told to end, if Ctrl-C has not reached it too.
TELL_AFTER_S = 5.0
#: Seconds that it then has to save what it has.
END_WITHIN_S = 60.0

Report = Callable[[str], None]


def check_cells(cells: Sequence[Cell], output: Path) -> dict[str, dict[str, Any]]:
    """Let the command line read what every cell asks for, before anything runs.

    Returns:
        The configuration of one run of every variant, by its name.

    Raises:
        HuscfError: Naming the run, and the key that does not exist or the value that does not fit.
    """
    known: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.variant in known:
            continue
        reason, printed = _try(["fit", *cell.options(output), "--print_config"])
        if reason:
            raise HuscfError(f"{cell.name}: {reason}; nothing was run")
        config = yaml.safe_load(printed)
        known[cell.variant] = config if isinstance(config, dict) else {}
        try:
            Budget(**(known[cell.variant].get("budget") or {}))
        except HuscfError as error:
            raise HuscfError(f"{cell.name}: {error}; nothing was run") from error
    return known


def count_jobs(configs: Sequence[Mapping[str, Any]]) -> int:
    """Return how many runs the cores can take side by side, by the threads that they ask for.

    A run that leaves its threads to PyTorch takes all cores, and one on an accelerator all of it.
    """
    if torch.accelerator.is_available():
        return 1
    sections = [config.get("training") or {} for config in configs]
    threads = [int(section.get("num_threads") or 0) for section in sections]
    return max(1, count_cores() // max(threads)) if threads and all(threads) else 1


def count_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_cells(cells: Sequence[Cell], output: Path, report: Report = print, jobs: int = 1) -> int:
    """Run what is not done yet; return how many have failed.

    A run that was interrupted goes on from its last checkpoint; one that failed is one line, and
    is tried again the next time. One whose configuration has changed, or whose folder is gone,
    begins anew in a new folder.

    Args:
        cells: All of the grid.
        output: Folder of the bench.
        report: Takes a line per cell.
        jobs: How many run side by side.
    """
    waiting, failed, seconds = [], 0, []
    heads = {cell.name: f"[{n}/{len(cells)}] {cell.name}: " for n, cell in enumerate(cells, 1)}
    for cell in cells:
        if is_done(cell, output):
            report(f"{heads[cell.name]}done before")
        else:
            waiting.append(cell)
            if why := find_restart(cell, output):
                report(f"{heads[cell.name]}{why}: it begins anew, in a new folder")
    for number, (cell, record) in enumerate(_run_all(waiting, output, jobs), 1):
        failed += record["status"] == "failed"
        seconds.append(record["seconds"])
        line = f"failed: {record['reason']}" if record["reason"] else f"done in {seconds[-1]:.0f} s"
        if left := len(waiting) - number:
            estimate = statistics.fmean(seconds) * math.ceil(left / jobs)
            line += f"; {left} to go, about {describe_duration(estimate)}"
        report(heads[cell.name] + line)
    return failed


def _run_all(
    cells: Sequence[Cell], output: Path, jobs: int
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Run cells; yield each with its record when it has ended.

    Who stops here, as by Ctrl-C, stops the runs too: each saves what it has.
    """
    if jobs == 1:
        yield from ((cell, _run_cell(cell, output, Children())) for cell in cells)
        return
    threads, children = max(1, count_cores() // jobs), Children()
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(_run_cell, cell, output, children, threads): cell for cell in cells}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        children.end()
        raise
    pool.shutdown()


def _run_cell(cell: Cell, output: Path, children: "Children", threads: int = 0) -> dict[str, Any]:
    """Run one cell, or go on with it; return what is kept of that."""
    options = cell.options(output)
    folder = find_folder(cell, output) if is_same(cell, output) else None
    if folder is None:
        checkpoint, has_run = None, False
        older = [each.name for each in list_folders(cell, output)]
    else:
        checkpoint, has_run = find_newest(folder), is_trained(cell, output)
        older = read_record(cell, output).get("older", [])
    record: dict[str, Any] = {"options": options, DIGEST: cell.digest, "older": older}
    record |= {"status": "started", "is_trained": has_run}
    write_record(cell, output, record)
    started = time.monotonic()
    reason = "" if has_run else _run(options, checkpoint, children, threads)
    record["is_trained"] = not reason
    if cell.audit is not None and not reason:
        write_record(cell, output, record)
        reason = _audit(cell, output, children, threads)
        record["audit"] = list(cell.audit)
    seconds = time.monotonic() - started
    record |= {"status": "failed" if reason else "done", "seconds": seconds, "reason": reason}
    write_record(cell, output, record)
    return record


def _run(
    options: Sequence[str], checkpoint: Path | None, children: "Children", threads: int = 0
) -> str:
    """Train; return the last line of what went wrong, "" where nothing did.

    Args:
        options: What follows `huscf fit`.
        checkpoint: Where it goes on, or None.
        children: Takes the process.
        threads: Of PyTorch, where the configuration leaves them to it; 0 leaves them to it too.
    """
    goes_on = [] if checkpoint is None else [f"--ckpt_path={checkpoint}"]
    words = ["fit", *options, *goes_on, "--trainer.enable_progress_bar=false"]
    return _call(words, children, threads)


def _audit(cell: Cell, output: Path, children: "Children", threads: int) -> str:
    """Audit a cell's newest run; return the last line of what went wrong, "" where nothing did."""
    words = ["audit", f"--ckpt_path={find_folder(cell, output)}", *(cell.audit or ())]
    reason = _call(words, children, threads)
    return f"audit: {reason}" if reason else ""


def _call(words: Sequence[str], children: "Children", threads: int) -> str:
    """Run `huscf` in a process of its own; return the last line of what went wrong, else ""."""
    command = [sys.executable, "-m", "huscf", *words]
    environment = {**({"OMP_NUM_THREADS": str(threads)} if threads else {}), **os.environ}
    child = children.start(command, environment)
    try:
        _, errors = child.communicate()
    except BaseException:
        children.end()
        raise
    return _last_line(errors) or f"exit code {child.returncode}" if child.returncode else ""


class Children:
    """Processes that end with this one; none begins once they were told to end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._all: list[subprocess.Popen] = []
        self._is_ended = False

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
        """Start a process whose errors alone are read.

        Raises:
            KeyboardInterrupt: Where all were told to end.
        """
        with self._lock:
            if self._is_ended:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._all.append(child)
        return child

    def end(self) -> None:
        """Wait a little for those that heard of Ctrl-C too, and tell the others to end."""
        with self._lock:
            self._is_ended = True
        for child in self._all:
            for hurry, patience_s in (
                (child.terminate, TELL_AFTER_S),
                (child.kill, END_WITHIN_S),
            ):
                try:
                    child.wait(patience_s)
                    break
                except subprocess.TimeoutExpired:
                    hurry()


def _try(arguments: list[str]) -> tuple[str, str]:
    """Return what the command line refuses of these arguments, "" where nothing, and its output."""
    from ..cli import run

    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            run(arguments)
    except SystemExit as ended:
        return _last_line(errors.getvalue()) if ended.code else "", output.getvalue()
    except HuscfError as error:
        return make_printable(str(error)), ""
    return "", output.getvalue()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else ""
    return make_printable(line.removeprefix("huscf: error: "))[:_MAX_REASON]
