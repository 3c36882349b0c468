"""The runs of a grid as a table: a line a variant, figures as mean and spread over seeds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ..reporting import RunRecord
from ..reporting.audit_figures import is_more_better, read_findings, summarise_audit
from ..reporting.figure_table import FigureRow, FigureTable, Spread
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
    ("epsilon", "privacy/*epsilon"),
)

#: Whether more is better; what real data alone reach, and how long a run was, is no merit.
DIRECTIONS = {
    **{"ARI": True, "score": True, "label accuracy": True, "Frechet": False, "downstream": True},
    "own real + generated": True,
    "epsilon": False,
    "MB uplink per client": False,
    "MB downlink per client": False,
    "simulated s a step": False,
    "simulated s": False,
    "ms a step, here": False,
}

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
    """What is known of the runs of one variant.

    Args:
        cell: One of them.
        num_runs: How many have ended.
        figures: Over them, by column.
        reason: Of a run that failed, or "".
    """

    cell: Cell
    num_runs: int
    figures: Mapping[str, Spread]
    reason: str = ""


def measure(cell: Cell, run: RunRecord, step_s: float | None = None) -> Measured:
    """Return a run's figures for the table, as numbers by column."""
    last, found = run.last(), Row()
    for name, pattern in COLUMNS:
        values = [value for key, value in last.items() if fnmatch(key, pattern)]
        if values and not (name == "ARI" and _is_fixed(run)):
            found[name] = statistics.fmean(values)
    found["steps"] = last.get("step", 0.0)
    seconds = [row["seconds"] for row in run.rows if "seconds" in row]
    if seconds and found["steps"]:
        found["ms a step, here"] = 1000 * sum(seconds) / found["steps"]
    for direction in ("uplink", "downlink"):
        each = [float(c[f"{direction}_mbytes"]) for c in run.clients if f"{direction}_mbytes" in c]
        if each:
            found[f"MB {direction} per client"] = statistics.fmean(each)
    if step_s is not None:
        found["simulated s a step"] = step_s
        found["simulated s"] = step_s * found["steps"]
    found |= summarise_audit(read_findings(run.folder) or [])
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
        spreads = {n: Spread.over([each.figures.get(n) for each in own]) for n in names}
        known = {name: spread for name, spread in spreads.items() if spread is not None}
        reasons = [reason for cell in asked if (reason := find_reason(cell))]
        rows.append(TableRow(asked[0], len(own), known, reasons[0] if reasons else ""))
    return rows


def make_figure_table(rows: Sequence[TableRow]) -> FigureTable:
    """Return the table: what tells variants apart, then every figure that any of them has.

    The best is marked among the variants of a scenario.
    """
    keys = [key.rpartition(".")[2] for key, _ in rows[0].cell.point] if rows else []
    lines, scenarios = [], {row.cell.scenario for row in rows}
    for row in rows:
        failed = row.reason and not row.num_runs
        count = f"failed: {row.reason}" if failed else str(row.num_runs)
        scenario = [row.cell.scenario] if len(scenarios) > 1 else []
        point = [str(value) for _, value in row.cell.point]
        labels = (row.cell.method, *scenario, *point, count)
        lines.append(FigureRow(labels, row.figures, row.cell.scenario))
    headings = ("method", *(["scenario"] if len(scenarios) > 1 else []), *keys, "seeds")
    names = dict.fromkeys(name for row in rows for name in row.figures)
    audited = {name: more for name in names if (more := is_more_better(name)) is not None}
    order = [name for name, _ in COLUMNS]
    return FigureTable(headings, tuple(lines), DIRECTIONS | audited, order)


def write_tables(rows: Sequence[TableRow], measured: Sequence[Measured], output: Path) -> None:
    """Write table.md and table.tex, a line a variant, and table.csv, one a run with all figures."""
    table = make_figure_table(rows)
    write_text(output / "table.md", table.to_markdown())
    write_text(output / "table.tex", table.to_latex())
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


def _is_fixed(run: RunRecord) -> bool:
    return any(
        rule in str((run.config.get("federation") or {}).get("rule")) for rule in _FIXED_RULES
    )
