"""What `huscf audit` left in a run's folder, as values and as figures of one line."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bounded_files import read_bytes
from ..errors import HuscfError
from .run_record import Row

MAX_AUDIT_BYTES = 2**20

#: A cut that was attacked: blocks of its head, and whether in what is sent to be compared.
_HEAD = re.compile(r"\w+_head (\d+), client \d+(, when compared)?")

#: What tells members, by attack.
_MEMBERS = {"membership by samples": "samples", "membership by logits": "logits"}

#: Whether more is better for who is attacked, by the beginning of a column's name.
_DIRECTIONS = {"MSE": True, "SSIM": False, "labels found": False, "AUROC": False, "TPR": False}


def read_findings(folder: Path) -> list[Mapping[str, Any]] | None:
    """Return the findings of a run's audit, None where there was none.

    Raises:
        HuscfError: Naming the file, where it is damaged.
    """
    path = folder / "audit.json"
    try:
        findings = json.loads(read_bytes(path, path.parent, MAX_AUDIT_BYTES))["attacks"]
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise HuscfError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(findings, list) or not all(isinstance(f, Mapping) for f in findings):
        raise HuscfError(f"{path}: damaged: attacks must be a list of findings")
    return findings


def summarise_audit(findings: list[Mapping[str, Any]]) -> Row:
    """Return what the best of each kind of attack has found, by column.

    Of every depth of a head: the inversion of least error with its likeness, and most labels; of
    averaged blocks the classes of each network; of members the AUROC and the true positives at 1 %
    of false ones.
    """
    found = Row()
    for finding in findings:
        figures = {
            name: float(value)
            for name, value in _map(finding.get("trained")).items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        attack, place = str(finding.get("attack")), str(finding.get("place"))
        if head := _HEAD.fullmatch(place):
            _note_head(found, figures, f"head {head[1]}" + (", compared" if head[2] else ""))
        elif attack == "classes from averaged blocks" and "auroc" in figures:
            found[f"AUROC, classes, {place}"] = figures["auroc"]
        elif attack in _MEMBERS and "auroc" in figures:
            found[f"AUROC, members, {_MEMBERS[attack]}"] = figures["auroc"]
            found[f"TPR at 1 %, members, {_MEMBERS[attack]}"] = figures["tpr_at_1_percent"]
    return found


def is_more_better(column: str) -> bool | None:
    """Return whether more is better for who is attacked; None of what is no such column."""
    return next((more for name, more in _DIRECTIONS.items() if column.startswith(name)), None)


def _note_head(found: Row, figures: Mapping[str, float], place: str) -> None:
    error = f"MSE, {place}"
    if "mse" in figures and figures["mse"] < found.get(error, math.inf):
        found[error], found[f"SSIM, {place}"] = figures["mse"], figures["ssim"]
    if "accuracy" in figures:
        labels = f"labels found, {place}"
        found[labels] = max(found.get(labels, 0.0), figures["accuracy"])


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
