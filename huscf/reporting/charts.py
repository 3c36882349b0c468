"""Charts of runs as PNG bytes; drawn without pyplot, so no global state is touched."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from .run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which people of any colour vision can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#555555")
MARKERS = "osD^vPX*<>"
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
    ("Planned latency, seconds a step", "plan/latency_s", 0.0),
)
CLIENT_COLOUR, SERVER_COLOUR = "#e8a33d", "#4a6fa5"


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
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), max(top, high) * 1.05)
        axes.set_title(heading, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("round", fontsize=8)
        tidy(axes)
        if len(runs) * len(columns) > 1:
            axes.legend(fontsize=7, frameon=False, handlelength=3)
    if not shown:
        figure.text(0.5, 0.5, "no round has ended", ha="center")
    return to_png(figure)


def draw_plan(plan: Mapping[str, Any], limit: int = 24) -> bytes:
    """Return who holds which block, one line for clients of equal profile and cuts.

    Args:
        plan: Values of plan.yaml.
        limit: Most lines; the most frequent ones are drawn.
    """
    groups = Counter((c["profile"], tuple(c["cuts"])) for c in plan["clients"])
    lines = groups.most_common(limit)
    figure = new_figure(9, 1.1 + 0.42 * len(lines))
    for column, (network, count) in enumerate(plan["blocks"].items()):
        axes = figure.add_subplot(1, len(plan["blocks"]), column + 1)
        for line, ((_, cuts), _) in enumerate(lines):
            head, tail = cuts[2 * column], cuts[2 * column + 1]
            held = [b < head or b >= count - tail for b in range(count)]
            colours = [CLIENT_COLOUR if own else SERVER_COLOUR for own in held]
            axes.barh([line] * count, [0.9] * count, 0.72, left=range(count), color=colours)
        axes.set_title(f"{network}, {count} blocks", loc="left", fontsize=10, fontweight="bold")
        axes.set_xticks([b + 0.45 for b in range(count)], [str(b + 1) for b in range(count)])
        labels = [f"{name or 'clients'} ({n})" for (name, _), n in lines]
        axes.set_yticks(range(len(lines)), labels if column == 0 else [""] * len(lines))
        axes.invert_yaxis()
        axes.tick_params(labelsize=8, length=0)
        axes.spines[:].set_visible(False)
    _explain_colours(figure)
    return to_png(figure)


def draw_traffic(clients: Sequence[Mapping[str, str]]) -> bytes | None:
    """Return the megabytes of every client by direction, or None where they are not known."""
    if not clients or "uplink_mbytes" not in clients[0]:
        return None
    figure = new_figure(9, 2.8)
    axes = figure.add_subplot()
    bottom = [0.0] * len(clients)
    for name, colour in (("uplink", COLOURS[0]), ("downlink", COLOURS[5])):
        values = [float(c[f"{name}_mbytes"]) for c in clients]
        axes.bar(range(len(clients)), values, 0.8, bottom, color=colour, label=name)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    if len(clients) <= 40:
        axes.set_xticks(range(len(clients)), [c["client"] for c in clients])
    axes.set_xlabel("client", fontsize=8)
    axes.set_ylabel("MB in the whole run", fontsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, 1.14))
    tidy(axes)
    return to_png(figure)


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

    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa3ad")
    axes.tick_params(labelsize=8, color="#9aa3ad")
    if axes.get_xlabel() == "round":
        left, right = axes.get_xlim()
        if right - left < 1:
            axes.set_xlim(left - 1, right + 1)  # a single round
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _explain_colours(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    owners = (("at the client", CLIENT_COLOUR), ("at the server", SERVER_COLOUR))
    patches = [Patch(color=colour, label=owner) for owner, colour in owners]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
