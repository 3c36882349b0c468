"""The runs of a grid as rows: one a variant, figures as mean and spread over seeds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ..reporting import RunRecord
from ..reporting.comparison import summarize_figure
from ..reporting.run_record import Row, write_table
from ..whole_files import write_text
from .grid import Cell

#: Column, and columns of metrics.csv whose mean over domains it is.
COLUMNS = (
    ("ARI", "federation/ari"),
    ("score", "eval/*/generation_score"),
    ("label accuracy", "eval/*/label_accuracy"),
    ("Frechet", "eval/*/frechet_distance"),
    ("downstream", "eval/*/downstream_accuracy"),
    ("own real + generated", "eval/*/downstream_accuracy_mixed"),
    ("own real alone", "eval/*/downstream_accuracy_own"),
)

#: Cluster rules under which the index says nothing.
_FIXED_RULES = ("OneCluster", "EachAlone")


@dataclass(frozen=True)
class Measured:
    """One run that has ended, and what a step of it would take on the given devices.

    Args:
        cell: What was asked for.
        run: Its folder.
        step_s: Simulated seconds of a step, rounds' traffic included; None where not known.
        figures: Numbers by column of the table.
    """

    cell: Cell
    run: RunRecord
    step_s: float | None = None
    figures: Row = field(default_factory=dict)


@dataclass(frozen=True)
class TableRow:
    """A line of the table.

    Args:
        cell: One of the runs that it is of.
        num_runs: How many.
        cells: Text by column.
        reason: Of a run that failed, or "".
    """

    cell: Cell
    num_runs: int
    cells: Mapping[str, str]
    reason: str = ""


def measure(cell: Cell, run: RunRecord, step_s: float | None = None) -> Measured:
    """Return a run's figures for the table, as numbers by column."""
    last, found = run.last(), Row()
    for name, pattern in COLUMNS:
        values = [value for key, value in last.items() if fnmatch(key, pattern)]
        if values and not (name == "ARI" and _is_fixed(run)):
            found[name] = statistics.fmean(values)
    found["steps"] = last.get("step", 0.0)
    for direction in ("uplink", "downlink"):
        each = [float(c[f"{direction}_mbytes"]) for c in run.clients if f"{direction}_mbytes" in c]
        if each:
            found[f"MB {direction} per client"] = statistics.fmean(each)
    if step_s is not None:
        found["simulated s a step"] = step_s
        found["simulated s"] = step_s * found["steps"]
    return Measured(cell, run, step_s, found)


def make_rows(
    cells: Sequence[Cell], measured: Sequence[Measured], find_reason: Callable[[Cell], str]
) -> list[TableRow]:
    """Return one row a variant, in the grid's order.

    Args:
        cells: All of the grid.
        measured: Those that have ended.
        find_reason: Why a run failed, or "".
    """
    rows = []
    for variant in dict.fromkeys(cell.variant for cell in cells):
        own = [each for each in measured if each.cell.variant == variant]
        asked = [cell for cell in cells if cell.variant == variant]
        names = dict.fromkeys(name for each in own for name in each.figures)
        texts = {name: _summarize([each.figures.get(name) for each in own]) for name in names}
        reasons = [reason for cell in asked if (reason := find_reason(cell))]
        rows.append(TableRow(asked[0], len(own), texts, reasons[0] if reasons else ""))
    return rows


def table_columns(rows: Sequence[TableRow]) -> list[str]:
    """Return the headings: what tells runs apart, then every figure that any row has."""
    known = [name for name, _ in COLUMNS]
    found = dict.fromkeys(name for row in rows for name in row.cells)
    ordered = [name for name in known if name in found]
    ordered += [name for name in found if name not in known]
    keys = [key.rpartition(".")[2] for key, _ in rows[0].cell.point] if rows else []
    return ["method", "scenario", *keys, "seeds", *ordered]


def row_texts(row: TableRow, columns: Sequence[str]) -> dict[str, str]:
    """Return a row's text by column."""
    point = {key.rpartition(".")[2]: str(value) for key, value in row.cell.point}
    own = {"method": row.cell.method, "scenario": row.cell.scenario, **point}
    own["seeds"] = f"failed: {row.reason}" if row.reason and not row.num_runs else str(row.num_runs)
    texts = {**own, **row.cells}
    return {name: texts.get(name, "-") for name in columns}


def write_tables(rows: Sequence[TableRow], measured: Sequence[Measured], output: Path) -> None:
    """Write table.md, one line a variant, and table.csv, one a run with all figures."""
    columns = table_columns(rows)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        texts = row_texts(row, columns)
        lines.append("| " + " | ".join(texts[name].replace("|", "/") for name in columns) + " |")
    write_text(output / "table.md", "\n".join(lines) + "\n")
    entries = [
        {
            "method": each.cell.method,
            "scenario": each.cell.scenario,
            **dict(each.cell.point),
            "seed": each.cell.seed,
            **each.figures,
            **each.run.last(),
            "folder": str(each.run.folder),
        }
        for each in measured
    ]
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    write_table(output / "table.csv", names or ["method"], entries)


def _summarize(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{known[0]:.4g}" if len(known) == 1 else summarize_figure(values)


def _is_fixed(run: RunRecord) -> bool:
    return any(
        rule in str((run.config.get("federation") or {}).get("rule")) for rule in _FIXED_RULES
    )
