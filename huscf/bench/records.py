"""What is kept of every cell, and what of it counts when a bench goes on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..nested_values import flatten
from ..whole_files import write_text
from .grid import OWN_KEYS, Cell

#: The key of a record's digest; "digest" was one that did not heed the order of keys.
DIGEST = "digest_in_order"


def digest_config(config: Mapping[str, Any]) -> str:
    """Return what tells configurations apart, but for what a bench sets itself.

    The order of keys counts: odds and domains are drawn and numbered in theirs.
    """
    kept = {key: value for key, value in flatten(config).items() if key not in OWN_KEYS}
    return hashlib.sha256(json.dumps(kept, default=str).encode()).hexdigest()


def read_record(cell: Cell, output: Path) -> dict[str, Any]:
    """Return what is kept of a cell; nothing where that is nothing or damaged."""
    try:
        known = json.loads(_record_path(cell, output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_record(cell: Cell, output: Path, record: Mapping[str, Any]) -> None:
    """Keep what is known of a cell, in place of what was kept."""
    path = _record_path(cell, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1))


def list_folders(cell: Cell, output: Path) -> list[Path]:
    """Return the folders of all runs that a cell ever had, by their numbers."""
    named = [folder.name.rpartition("-") for folder in (output / "runs").glob(f"{cell.name}-*")]
    numbers = sorted(int(last) for name, _, last in named if name == cell.name and last.isdigit())
    return [output / "runs" / f"{cell.name}-{number}" for number in numbers]


def find_folder(cell: Cell, output: Path) -> Path | None:
    """Return the folder of the run that a cell's record is of, or None."""
    older = read_record(cell, output).get("older", [])
    own = [folder for folder in list_folders(cell, output) if folder.name not in older]
    return own[-1] if own else None


def is_same(cell: Cell, output: Path) -> bool:
    """Return whether a cell's record is of the run that is asked for now.

    Digests are compared where both are known: those of earlier versions' records are not.
    """
    known = read_record(cell, output)
    digests = {known.get(DIGEST), cell.digest} - {None}
    return known.get("options") == cell.options(output) and len(digests) < 2


def is_done(cell: Cell, output: Path) -> bool:
    """Return whether a cell's run has ended well, and its audit, as they are asked for now."""
    known = read_record(cell, output)
    is_audited = cell.audit is None or known.get("audit") == list(cell.audit)
    is_there = is_same(cell, output) and find_folder(cell, output) is not None
    return known.get("status") == "done" and is_there and is_audited


def is_trained(cell: Cell, output: Path) -> bool:
    """Return whether a cell's record says that its run, if not its audit, has ended well."""
    known = read_record(cell, output)
    return bool(known.get("is_trained", known.get("status") == "done"))


def find_restart(cell: Cell, output: Path) -> str:
    """Return why a cell that has been run begins anew, "" where it does not."""
    if not read_record(cell, output):
        return ""
    if not is_same(cell, output):
        return "its configuration has changed"
    is_gone = is_trained(cell, output) and find_folder(cell, output) is None
    return "the folder of its run is gone" if is_gone else ""


def find_reason(cell: Cell, output: Path) -> str:
    """Return why a cell's run failed, "" where it did not."""
    known = read_record(cell, output)
    return str(known.get("reason", "")) if known.get("status") == "failed" else ""


def _record_path(cell: Cell, output: Path) -> Path:
    return output / "cells" / f"{cell.name}.json"
