"""Pictures of the federation: where clients lie, which cluster they are in, how much they weigh."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..colours import PAPER
from .charts import COLOURS, MANY, MARKERS, new_figure, tidy, to_png
from .federation_history import Colours, FederationRow, by_round, choose_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rounds = Mapping[int, Sequence[FederationRow]]

#: With more clients than this their numbers are not written beside them.
MAX_NUMBERED = 40
#: Most maps of a strip; the first and the last round are among them.
MAX_MAPS = 12
#: Most entries of a legend beside a map.
MAX_ENTRIES = 14


def draw_last_round(rows: Sequence[FederationRow]) -> bytes:
    """Return a PNG of the last round's cluster map, and the weights of all rounds beside it."""
    rounds = by_round(rows)
    number, colours = max(rounds), choose_colours(rounds)
    figure = new_figure(13.5, 4.8)
    figure.suptitle(f"round {number}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    _draw_map(left, rounds[number], colours[number])
    _label_map(left)
    _draw_weights(right, rounds)
    return to_png(figure)


def plot_cluster_map(
    rows: Sequence[FederationRow], colours: Colours | None = None
) -> "Figure | None":
    """Return one round's map: colour is the found cluster, marker the true domain.

    Args:
        rows: The round's.
        colours: From `choose_colours`; None numbers them as the clusters.

    Returns:
        None where no client has a place.
    """
    if not _has_places(rows):
        return None
    figure = new_figure(5.2, 4.4)
    axes = figure.add_subplot()
    _draw_map(axes, rows, colours or {row.cluster: row.cluster for row in rows})
    _label_map(axes, is_legend_below=True)
    return figure


def plot_maps_by_round(rounds: Rounds) -> list[tuple[str, "Figure"]]:
    """Return a caption and a small map for several rounds, on one scale; [] for fewer than two."""
    shown = _choose_maps(rounds)
    colours = choose_colours(rounds)
    figures = []
    for number in shown:
        figure = new_figure(2.3, 2.1)
        axes = figure.add_subplot()
        _draw_map(axes, rounds[number], colours[number], size=34, is_numbered=False)
        figures.append((_name_map(number, rounds[number]), figure))
    _share_limits([figure.axes[0] for _, figure in figures])
    return figures


def _share_limits(every: Sequence["Axes"]) -> None:
    """Give all axes the limits that hold what is on each."""
    for get, set_ in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        limits = [getattr(axes, get)() for axes in every]
        for axes in every:
            getattr(axes, set_)(min(low for low, _ in limits), max(high for _, high in limits))


def _choose_maps(rounds: Rounds) -> list[int]:
    placed = [number for number, rows in rounds.items() if _has_places(rows)]
    return thin_out(placed, MAX_MAPS) if len(placed) > 1 else []


def _name_map(number: int, rows: Sequence[FederationRow]) -> str:
    count = len({row.cluster for row in rows})
    return f"round {number}, {count} cluster{'s' * (count > 1)}"


def draw_maps_by_round(rounds: Rounds) -> bytes | None:
    """Return the maps of several rounds in one PNG, or None where fewer than two have one."""
    shown = _choose_maps(rounds)
    if not shown:
        return None
    colours = choose_colours(rounds)
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = new_figure(11, 2.6 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, number in zip(grid.flat, shown, strict=False):
        _draw_map(axes, rounds[number], colours[number], size=34, is_numbered=False)
        axes.set_title(_name_map(number, rounds[number]), loc="left", fontsize=9)
    return to_png(figure)


def plot_weights(rounds: Rounds) -> "Figure | None":
    """Return every client's weight in every round as a heat map, or None without a round."""
    if not rounds:
        return None
    clients = {row.client for rows in rounds.values() for row in rows}
    width = min(11.0, max(4.4, 1.8 + 0.4 * len(rounds)))
    figure = new_figure(width, min(9.0, 1.4 + 0.22 * max(8, len(clients))))
    _draw_weights(figure.add_subplot(), rounds)
    return figure


def thin_out(numbers: Sequence[int], limit: int) -> list[int]:
    """Return at most so many of some numbers at even distances, the first and the last included."""
    if len(numbers) <= limit:
        return list(numbers)
    return [numbers[round(i * (len(numbers) - 1) / (limit - 1))] for i in range(limit)]


def _draw_map(
    axes: "Axes",
    rows: Sequence[FederationRow],
    colours: Colours,
    size: float = 70,
    is_numbered: bool = True,
) -> None:
    domains = sorted({row.domain for row in rows})
    for cluster, domain in sorted({(row.cluster, row.domain) for row in rows}):
        group = [r for r in rows if (r.cluster, r.domain) == (cluster, domain)]
        x, y = ([np.nan if v is None else v for v in c] for c in zip(*_places(group), strict=True))
        lap, colour = divmod(colours[cluster], len(COLOURS))
        marker = MARKERS[(domains.index(domain) + lap) % len(MARKERS)]
        label = f"cluster {cluster}" + f", {domain}" * bool(domain)
        style: dict[str, Any] = {"marker": marker, "alpha": 0.75, "edgecolors": PAPER}
        points = axes.scatter(x, y, size, COLOURS[colour], label=label, **style)
        points.set_rasterized(len(rows) > MANY)
    if is_numbered and len(rows) <= MAX_NUMBERED:
        for row, place in zip(rows, _places(rows), strict=True):
            if None not in place:
                name = str(row.client)
                axes.annotate(name, place, (5, 5), textcoords="offset points", fontsize=7)
    if not _has_places(rows):
        axes.text(0.5, 0.5, "no places in this round", ha="center", transform=axes.transAxes)
    axes.margins(0.15)
    tidy(axes)


def _label_map(axes: "Axes", is_legend_below: bool = False) -> None:
    from matplotlib.lines import Line2D

    # Distances count: a unit is as long upwards as sideways.
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("Clients as the server sees them", loc="left", fontsize=10)
    axes.set_xlabel("distance between clients, in spreads of single samples", fontsize=8)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > MAX_ENTRIES:
        more = len(labels) - MAX_ENTRIES + 1
        handles = [*handles[: MAX_ENTRIES - 1], Line2D([], [], linestyle="none")]
        labels = [*labels[: MAX_ENTRIES - 1], f"and {more} more"]
    if is_legend_below:
        where: dict[str, Any] = {"loc": "outside lower left", "ncols": 2}
        assert axes.figure is not None
        axes.figure.legend(handles, labels, fontsize=8, frameon=False, **where)
    else:
        where = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        axes.legend(handles, labels, fontsize=8, frameon=False, **where)


def _draw_weights(axes: "Axes", rounds: Rounds) -> None:
    """Rows are clients, columns are rounds; a cell without a client stays white."""
    clients = sorted({row.client for rows in rounds.values() for row in rows})
    line = {client: position for position, client in enumerate(clients)}
    weights = np.full((len(clients), len(rounds)), np.nan)
    for column, rows in enumerate(rounds.values()):
        for row in rows:
            weights[line[row.client], column] = row.weight
    top = float(np.nanmax(weights))
    cells = axes.imshow(weights, "viridis", aspect="auto", interpolation="nearest")
    cells.set_clim(0.0, top)
    assert axes.figure is not None
    axes.figure.colorbar(cells, ax=axes, shrink=0.85).ax.tick_params(labelsize=7)
    axes.set_title("Weight in the cluster's average", loc="left", fontsize=10)
    _label_cells(axes, clients, list(rounds))
    if weights.size <= 160 and len(rounds) <= 14:
        for (i, j), value in np.ndenumerate(weights):
            # On the colours of the map: as near to white and black as what stays so on dark pages.
            colour = "#fefefe" if value < 0.6 * top else "#010101"
            text = f"{value:.2f}" if np.isfinite(value) else ""
            axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)


def _label_cells(axes: "Axes", clients: Sequence[int], rounds: Sequence[int]) -> None:
    axes.set_xlabel("round", fontsize=8)
    axes.set_ylabel("client", fontsize=8)
    axes.tick_params(labelsize=7, length=0)
    axes.spines[:].set_visible(False)
    for numbers, set_ticks in ((rounds, axes.set_xticks), (clients, axes.set_yticks)):
        shown = thin_out(range(len(numbers)), 20)
        set_ticks(shown, [str(numbers[position]) for position in shown])


def _has_places(rows: Sequence[FederationRow]) -> bool:
    return any(row.map_x is not None for row in rows)


def _places(rows: Sequence[FederationRow]) -> list[tuple[float | None, float | None]]:
    return [(row.map_x, row.map_y) for row in rows]
