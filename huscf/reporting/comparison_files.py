"""`huscf compare` as files: Markdown and LaTeX tables, CSV of all figures, curves."""

from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..errors import HuscfError
from ..user_paths import check_folder
from ..whole_files import write_bytes, write_text
from .comparison import (
    draw_comparison,
    final_figures,
    group_repetitions,
    name_apart,
    repeated_figures,
    seed_of,
)
from .figure_table import FigureRow, FigureTable, Spread, find_direction
from .run_record import Row, RunRecord, write_table

#: Figures of a table that shows a few; those of a test go before those of training.
FEW = (
    *("generation_score", "label_accuracy", "frechet_distance", "fid"),
    *("downstream_accuracy", "downstream_gain"),
)

#: Endings of files, in the words of the help.
ENDINGS = (".png", ".md", ".tex", ".csv")


def check_outputs(paths: Sequence[Path]) -> None:
    """Refuse, before anything is read, what cannot be written.

    Raises:
        HuscfError: Naming the file.
    """
    for path in paths:
        if path.exists():
            raise HuscfError(f"output {path}: exists already; nothing was written")
        check_folder(path)
        if path.suffix.lower() not in ENDINGS:
            raise HuscfError(
                f"output {path}: its ending says what is written: .png curves, .md Markdown, "
                ".tex LaTeX, .csv all figures of every run"
            )


def write_comparison(path: Path, runs: Sequence[RunRecord], patterns: Sequence[str] = ()) -> None:
    """Write curves, a table or all figures, by the file's ending.

    Args:
        path: The file.
        runs: The runs.
        patterns: Which figures a table has, as eval/*/recall; none takes a few of the scores.
    """
    ending = path.suffix.lower()
    if ending == ".png":
        write_bytes(path, draw_comparison(runs))
    elif ending == ".csv":
        _write_csv(path, runs, patterns)
    else:
        table = make_figure_table(runs, patterns)
        write_text(path, table.to_latex() if ending == ".tex" else table.to_markdown())


def make_figure_table(runs: Sequence[RunRecord], patterns: Sequence[str] = ()) -> FigureTable:
    """Return a line a run, and one for all runs that differ in the seed alone.

    Raises:
        HuscfError: Where no run has any of the figures.
    """
    lines = _list_lines(runs)
    names = _choose_figures([row for _, rows in lines for row in rows], patterns)
    found = []
    for label, rows in lines:
        spreads = {name: Spread.over([row.get(name) for row in rows]) for name in names}
        known = {name: spread for name, spread in spreads.items() if spread is not None}
        found.append(FigureRow((label, str(len(rows))), known))
    directions = {n: more for n in names if (more := find_direction(n)) is not None}
    return FigureTable(("run", "seeds"), tuple(found), directions, names)


def _list_lines(runs: Sequence[RunRecord]) -> list[tuple[str, list[Row]]]:
    """Return label and figures of every line, in the order of the runs."""
    called = dict(zip((run.folder for run in runs), name_apart(runs), strict=True))
    groups = [group.runs for group in group_repetitions(runs) if len(group.runs) > 1]
    group_of = {run.folder: group for group in groups for run in group}
    lines = []
    for run in runs:
        group = group_of.get(run.folder)
        if group is None:
            lines.append((called[run.folder], [final_figures(run)]))
        elif group[0] is run:
            names = [called[each.folder] for each in group]
            lines.append((_name_together(names), repeated_figures(group)))
    return lines


def _name_together(names: Sequence[str]) -> str:
    """Return what names have in common, "mdgan" of mdgan-seed0-1 and mdgan-seed1-1."""
    alike = takewhile(lambda signs: len(set(signs)) == 1, zip(*names, strict=False))
    common = "".join(signs[0] for signs in alike).rstrip("0123456789").rstrip("-_.")
    return common.removesuffix("seed").rstrip("-_.") or names[0]


def _choose_figures(rows: Sequence[Row], patterns: Sequence[str]) -> list[str]:
    every = list(dict.fromkeys(name for row in rows for name in row))
    if patterns:
        chosen = [n for pattern in patterns for n in every if fnmatch(n, pattern)]
    else:
        tested = all(any(name.startswith("test/") for name in row) for row in rows)
        chosen = _choose_few(every, "test" if tested else "eval")
    if not chosen:
        raise HuscfError(
            f"compare: no run has any of {' '.join(patterns) or 'the scores'}; there are "
            + ", ".join(every[:12])
            + (", ..." if len(every) > 12 else "")
        )
    return list(dict.fromkeys(chosen))


def _choose_few(every: Sequence[str], kind: str) -> list[str]:
    scores = [n for n in every if n.startswith(f"{kind}/") and n.rpartition("/")[2] in FEW]
    order = {name: place for place, name in enumerate(FEW)}
    domains = list(dict.fromkeys(name.split("/")[1] for name in scores))
    scores.sort(key=lambda n: (domains.index(n.split("/")[1]), order[n.rpartition("/")[2]]))
    return [*(name for name in ("federation/ari",) if name in every), *scores]


def _write_csv(path: Path, runs: Sequence[RunRecord], patterns: Sequence[str]) -> None:
    entries: list[dict[str, Any]] = []
    for run, name in zip(runs, name_apart(runs), strict=True):
        figures = final_figures(run)
        if patterns:
            figures = {n: figures[n] for n in _choose_figures([figures], patterns)}
        entries.append({"run": name, "seed": seed_of(run), **figures})
    columns = list(dict.fromkeys(column for entry in entries for column in entry))
    write_table(path, columns, entries)
