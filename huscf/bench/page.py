"""bench.html: the table, and curves over steps, over bytes and over simulated seconds."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from html import escape
from pathlib import Path
from typing import Any

from ..reporting.charts import COLOURS, STYLES, new_figure, tidy, to_png
from ..reporting.figure_table import BEST
from ..reporting.page import make_picture, make_table
from ..reporting.page_style import STYLE
from ..whole_files import write_text
from .grid import NO_SCENARIO
from .tables import Measured, TableRow, make_figure_table

#: Heading, and columns of metrics.csv whose mean over domains is drawn.
PANELS = (
    ("Frechet distance (less is better)", "eval/*/frechet_distance"),
    ("Generation score", "eval/*/generation_score"),
    ("Label accuracy (judge)", "eval/*/label_accuracy"),
)
AXES = ("steps", "MB of all clients", "simulated seconds")
#: Style of a line, as matplotlib takes it, and colour.
Look = tuple[Any, str]


def write_page(rows: Sequence[TableRow], measured: Sequence[Measured], output: Path) -> Path:
    """Write bench.html, which needs nothing beside itself; return its path."""
    table = make_figure_table(rows)
    body = make_table(*table.to_texts())
    if table.best():
        body += f"<p>{BEST.strip()} the best of its column and scenario; mean ± standard deviation"
        body += " over seeds</p>"
    links = [
        f'<a href="{escape(str(each.run.folder.relative_to(output)))}/report.html">'
        f"{escape(each.cell.name)}</a>"
        for each in measured
        if (each.run.folder / "report.html").is_file() and each.run.folder.is_relative_to(output)
    ]
    body += f"<p>pages of the runs: {' · '.join(links)}</p>" if links else ""
    failures = [f"{row.cell.name}: {row.reason}" for row in rows if row.reason]
    body += "".join(f"<p>{escape(line)}</p>" for line in failures)
    sections = f"<section><h2>Runs</h2>{body}</section>{_draw_scenarios(measured)}"
    title = escape(output.name)
    path = output / "bench.html"
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><link rel="icon" '
        f'href="data:,"><title>{title}</title><style>{STYLE}</style></head><body><header>'
        f"<h1>{title}</h1></header><main>{sections}</main></body></html>\n",
    )
    return path


def _draw_scenarios(measured: Sequence[Measured]) -> str:
    """Return curves as HTML, a section a scenario; a method looks the same in each."""
    found = ""
    looks = _choose_looks(measured)
    for scenario in dict.fromkeys(each.cell.scenario for each in measured):
        own = [each for each in measured if each.cell.scenario == scenario]
        heading = "Curves" if scenario == NO_SCENARIO else f"Curves: {escape(scenario)}"
        picture = make_picture(
            draw_curves(own, looks), "Means over domains, by round; a line a run"
        )
        found += f"<section><h2>{heading}</h2>{picture}</section>"
    return found


def trace(each: Measured, pattern: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return places and values of one figure's mean over domains, by axis.

    Args:
        each: The run.
        pattern: Columns of metrics.csv.
    """
    places: dict[str, list[float]] = {axis: [] for axis in AXES}
    values, mbytes = [], 0.0
    for row in each.run.rows:
        mbytes += row.get("traffic/mbytes", 0.0)
        own = [value for name, value in row.items() if fnmatch(name, pattern)]
        if not own:
            continue
        values.append(statistics.fmean(own))
        step = row.get("step", 0.0)
        found = (step, mbytes, float("nan") if each.step_s is None else step * each.step_s)
        for axis, place in zip(AXES, found, strict=True):
            places[axis].append(place)
    return {axis: (places[axis], values) for axis in AXES}


def draw_curves(measured: Sequence[Measured], looks: Mapping[str, Look]) -> bytes:
    """Return a PNG of runs, each in the look of its method and values of the grid."""
    axes = [axis for axis in AXES if axis != AXES[2] or any(m.step_s for m in measured)]
    figure = new_figure(4.4 * len(axes), 2.9 * len(PANELS))
    for row, (heading, pattern) in enumerate(PANELS):
        for column, axis in enumerate(axes):
            panel = figure.add_subplot(len(PANELS), len(axes), row * len(axes) + column + 1)
            for each in measured:
                style, colour = looks[_name(each)]
                x, y = trace(each, pattern)[axis]
                panel.plot(x, y, style, color=colour, marker="o", markersize=2.5, linewidth=1.1)
            if axis != AXES[0]:
                panel.set_xscale("log")
                panel.xaxis.set_minor_formatter("")
            panel.set_title(heading if not column else "", loc="left", fontsize=9)
            panel.set_xlabel(axis, fontsize=8)
            tidy(panel)
    _explain(figure, {name: looks[name] for name in map(_name, measured)})
    return to_png(figure)


def _name(each: Measured) -> str:
    """Return what a run is called among those of its scenario, the seed left out."""
    return replace(each.cell, scenario=NO_SCENARIO).variant


def _choose_looks(measured: Sequence[Measured]) -> dict[str, Look]:
    """Return a line's style and colour by name; where these run out they begin anew."""
    names = dict.fromkeys(map(_name, measured))
    return dict(zip(names, itertools.cycle(itertools.product(STYLES, COLOURS)), strict=False))


def _explain(figure: object, looks: Mapping[str, Look]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], linestyle=s, color=c, label=name) for name, (s, c) in looks.items()]
    figure.legend(  # type: ignore[attr-defined]
        handles=lines, loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
