"""Pictures of a plan and of a trade-off, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..split import NETWORK_NAMES
from .problem import PlanProblem
from .result import PlanResult
from .trade_off import Rival, TradeOffPoint

_COLOURS = {"client": "#2a7fb8", "server": "#e8b04a"}
_ORDER = (
    "generator_forward",
    "discriminator_forward",
    "discriminator_backward",
    "discriminator_input_backward",
    "generator_backward",
    "optimizer",
    "federation",
    "moving",
)
# Bytes and joules of the axes' units.
_RIVAL_AXES = {"bytes": ("traffic of a step (MB)", 1e6), "energy": ("energy of a step (J)", 1.0)}


def draw_plan(result: PlanResult, problem: PlanProblem, path: str | Path) -> None:
    """Draw who holds which blocks, a bar per unit, and the timeline of one step.

    Args:
        result: The plan.
        problem: The problem that it solves, for the units.
        path: PNG file to write.
    """
    height = 3.2 + 0.3 * min(len(problem.units), 40)
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)
    bars, timeline = figure.subplots(2, 1, height_ratios=(height - 3.2, 2.4))
    _draw_bars(bars, result, problem)
    _draw_timeline(timeline, result)
    figure.savefig(path, dpi=120, format="png")


def draw_pareto(points: Sequence[TradeOffPoint], against: Rival, path: str | Path) -> None:
    """Draw latency against traffic or energy.

    Args:
        points: Undominated plans.
        against: What the other axis is.
        path: PNG file to write.
    """
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    label, unit = _RIVAL_AXES[against]
    axes.plot(
        [point.rival / unit for point in points],
        [point.latency_s for point in points],
        marker="o",
        drawstyle="steps-pre",
        color=_COLOURS["client"],
    )
    axes.set(xlabel=label, ylabel="latency of a step (s)", title="best plans under a limit")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")


def _draw_bars(axes: Axes, result: PlanResult, problem: PlanProblem) -> None:
    labels = []
    units = sorted(problem.units, key=lambda unit: unit.profile.name)[:40]
    for row, unit in enumerate(units):
        cuts = result.plan.by_client[unit.client_ids[0]].cuts
        labels.append(f"{unit.profile.name} x {len(unit.client_ids)}")
        start = 0.0
        for network in NETWORK_NAMES:
            number = result.plan.num_blocks(network)
            served = cuts.server_range(network, number)
            for block in range(number):
                owner = "server" if block in served else "client"
                axes.barh(row, 1, left=start + block, color=_COLOURS[owner], edgecolor="white")
            start += number + 0.5
    middle = [problem.num_blocks[0] / 2, problem.num_blocks[0] + 0.5 + problem.num_blocks[1] / 2]
    axes.set_xticks(middle, ["generator blocks", "discriminator blocks"])
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_title(f"{result.strategy} plan, {result.latency_s:.3f} s a step")
    axes.legend(
        handles=[Patch(color=colour, label=owner) for owner, colour in _COLOURS.items()],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
    )
    axes.spines[:].set_visible(False)


def _draw_timeline(axes: Axes, result: PlanResult) -> None:
    known = [name for name in _ORDER if name in result.stages]
    names = known + [name for name in result.stages if name not in _ORDER]
    start = 0.0
    for row, name in enumerate(names):
        seconds = result.stages[name]
        axes.barh(row, seconds, left=start, color=_COLOURS["client"])
        axes.text(start + seconds, row, f" {seconds:.2f} s", va="center", fontsize=8)
        start += seconds
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, start * 1.12)
    axes.set_xlabel(f"one step (s), latency model {result.latency_model}")
