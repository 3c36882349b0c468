"""Charts of runs as PNG bytes; drawn without pyplot, so no global state is touched."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from ..colours import AXIS, CLIENT, GRID, SERVER
from ..colours import SERIES as COLOURS
from .run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: First and last round; least and most of the vertical axis.
Limits = tuple[tuple[float, float], tuple[float, float]]

MARKERS = "osD^vPX*<>"
#: Inches of a chart that stands alone, and of one among several.
LARGE, SMALL = (4.4, 2.3), (2.2, 1.6)
#: More marks than this are drawn as pixels, not one by one.
MANY = 200
STYLES = ("-", "--", ":", "-.")

#: Heading, columns of metrics.csv, and least upper end of the y axis of every panel.
PANELS = (
    ("Losses", "train/*_loss", 0.0),
    ("Label accuracy (judge)", "eval/*/label_accuracy", 1.0),
    ("Generation score", "eval/*/generation_score", 0.0),
    ("Frechet distance (less is better)", "eval/*/frechet_distance", 0.0),
    ("Clusters against domains: adjusted Rand index", "federation/ari", 1.0),
    ("Number of clusters", "federation/num_clusters", 3.0),
    ("Traffic, MB a round", "traffic/mbytes", 0.0),
    ("Seconds a round", "seconds", 0.0),
    ("Seconds waited for sites a round", "waited/*", 0.0),
    ("Planned latency, seconds a step", "plan/latency_s", 0.0),
)


@dataclass(frozen=True)
class Panel:
    """One figure's curves.

    Args:
        heading: What is drawn.
        figures: A caption, "" for none, and a chart: one per domain, on one scale, where the figure
            is measured by domain.
    """

    heading: str
    figures: Sequence[tuple[str, "Figure"]]


def plot_panels(run: RunRecord) -> list[Panel]:
    """Return the curves of one run by round, each figure by itself."""
    panels = []
    for heading, pattern, top in PANELS:
        if not (names := _names([run], pattern)):
            continue
        is_by_domain = pattern.startswith("eval/")
        groups = [[name] for name in names] if is_by_domain else [names]
        limits = _find_limits([run], names, top)
        figures = [
            (_label(group[0]), _plot_curves(run, group, limits, SMALL))
            if is_by_domain
            else ("", _plot_curves(run, group, limits, LARGE))
            for group in groups
        ]
        panels.append(Panel(heading, figures))
    return panels


def _plot_curves(
    run: RunRecord, names: Sequence[str], limits: Limits, size: tuple[float, float]
) -> "Figure":
    """Return a chart of a few series."""
    figure = new_figure(*size)
    axes = figure.add_subplot()
    _draw_series(axes, [("", run)], names)
    _set_limits(axes, limits)
    axes.set_xlabel("round", fontsize=9)
    tidy(axes)
    axes.tick_params(labelsize=9)
    if len(names) > 1:
        axes.legend(fontsize=8, frameon=False, ncols=len(names), loc="lower left")
    return figure


def draw_panels(runs: Sequence[RunRecord], names: Sequence[str] = ("",)) -> bytes:
    """Return the curves of runs by round.

    Args:
        runs: One, drawn with a colour per series, or several, with a colour per run.
        names: How the legend calls each of several runs.
    """
    shown = [(heading, _names(runs, pattern), top) for heading, pattern, top in PANELS]
    shown = [panel for panel in shown if panel[1]]
    rows = max(1, -(-len(shown) // 2))
    figure = new_figure(11, 2.7 * rows)
    for position, (heading, columns, top) in enumerate(shown):
        axes = figure.add_subplot(rows, 2, position + 1)
        _draw_series(axes, list(zip(names, runs, strict=True)), columns)
        _set_limits(axes, _find_limits(runs, columns, top))
        axes.set_title(heading, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("round", fontsize=8)
        tidy(axes)
        if len(runs) * len(columns) > 1:
            axes.legend(fontsize=7, frameon=False, handlelength=3)
    if not shown:
        figure.text(0.5, 0.5, "no round has ended", ha="center")
    return to_png(figure)


def plot_plan(
    plan: Mapping[str, Any], networks: Sequence[str] | None = None, limit: int = 24
) -> "Figure":
    """Return who holds which block, one line for clients of equal profile and cuts.

    Args:
        plan: Values of plan.yaml.
        networks: Those that are drawn, beside each other; None draws all.
        limit: Most lines; the most frequent ones are drawn.
    """
    shown = list(plan["blocks"]) if networks is None else list(networks)
    groups = Counter((c["profile"], tuple(c["cuts"])) for c in plan["clients"])
    lines = groups.most_common(limit)
    figure = new_figure(0.6 + 4.2 * len(shown), 1.1 + 0.42 * len(lines))
    for column, network in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), column + 1)
        place, count = list(plan["blocks"]).index(network), plan["blocks"][network]
        for line, ((_, cuts), _) in enumerate(lines):
            head, tail = cuts[2 * place], cuts[2 * place + 1]
            held = [b < head or b >= count - tail for b in range(count)]
            colours = [CLIENT if own else SERVER for own in held]
            axes.barh([line] * count, [0.9] * count, 0.72, left=range(count), color=colours)
        axes.set_title(f"{network}, {count} blocks", loc="left", fontsize=10, fontweight="bold")
        axes.set_xticks([b + 0.45 for b in range(count)], [str(b + 1) for b in range(count)])
        labels = [f"{name or 'clients'} ({n})" for (name, _), n in lines]
        axes.set_yticks(range(len(lines)), labels if column == 0 else [""] * len(lines))
        axes.invert_yaxis()
        axes.tick_params(labelsize=8, length=0)
        axes.spines[:].set_visible(False)
    _explain_colours(figure)
    return figure


def plot_traffic(clients: Sequence[Mapping[str, str]]) -> "Figure | None":
    """Return the megabytes of every client by sender, or None where they are not known."""
    if not clients or "uplink_mbytes" not in clients[0]:
        return None
    figure = new_figure(5.2 if len(clients) <= 16 else 9, 2.8)
    axes = figure.add_subplot()
    bottom = [0.0] * len(clients)
    for name, colour in (("uplink", CLIENT), ("downlink", SERVER)):
        values = [float(c[f"{name}_mbytes"]) for c in clients]
        label = f"{name}, by the {'client' if name == 'uplink' else 'server'}"
        bars = axes.bar(range(len(clients)), values, 0.8, bottom, color=colour, label=label)
        for bar in bars:
            bar.set_rasterized(len(clients) > MANY)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    if len(clients) <= 40:
        axes.set_xticks(range(len(clients)), [c["client"] for c in clients])
    axes.set_xlabel("client", fontsize=8)
    axes.set_ylabel("MB in the whole run", fontsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, 1.16))
    tidy(axes)
    return figure


def _names(runs: Sequence[RunRecord], pattern: str) -> list[str]:
    names = [name for run in runs for row in run.rows for name in row if fnmatch(name, pattern)]
    return list(dict.fromkeys(names))


def _draw_series(
    axes: "Axes", runs: Sequence[tuple[str, RunRecord]], columns: Sequence[str]
) -> None:
    is_alone = len(runs) == 1
    for which, (name, run) in enumerate(runs):
        for position, column in enumerate(columns):
            rounds, values = run.series(column)
            if not rounds:
                continue  # a domain that another run has
            colour = COLOURS[(position if is_alone else which) % len(COLOURS)]
            style = "-" if is_alone else STYLES[position % len(STYLES)]
            kind = "o" if is_alone else MARKERS[position % len(MARKERS)]
            marker = kind if len(rounds) <= 30 else ""
            label = f"{name} {_label(column)}".strip()
            axes.plot(rounds, values, style, c=colour, marker=marker, ms=3.5, lw=1.6, label=label)


def _find_limits(runs: Sequence[RunRecord], names: Sequence[str], top: float) -> Limits:
    """Return first and last round of all runs, and least and most of some figures, with room."""
    rounds = [row["round"] for run in runs for row in run.rows]
    values = [value for run in runs for name in names for value in run.series(name)[1]]
    low, high = min(0.0, *values), max(top, *values)
    margin = 0.05 * (high - low) or 1.0
    low = low - margin if low < 0 else 0.0
    return (min(rounds), max(rounds)), (low, high + margin)


def _set_limits(axes: "Axes", limits: Limits) -> None:
    (first, last), (low, high) = limits
    margin = 0.04 * (last - first) or 1.0
    axes.set_xlim(first - margin, last + margin)
    axes.set_ylim(low, high)


def _label(name: str) -> str:
    """The part of a column's name that tells it from the others in its panel."""
    parts = name.split("/")
    return parts[1] if len(parts) == 3 else parts[-1].removesuffix("_loss")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, inches wide and high."""
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=130, layout="constrained")


def tidy(axes: "Axes") -> None:
    """Give axes the look that all charts share."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXIS)
    axes.tick_params(labelsize=8, color=AXIS)
    if axes.get_xlabel() == "round":
        left, right = axes.get_xlim()
        if right - left < 1:
            axes.set_xlim(left - 1, right + 1)  # a single round
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def _explain_colours(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    owners = (("at the client", CLIENT), ("at the server", SERVER))
    patches = [Patch(color=colour, label=owner) for owner, colour in owners]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
