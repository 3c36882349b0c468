"""The picture of a plan, as a PNG file."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...colours import CLIENT, SERIES, SERVER
from ...whole_files import replacing
from ..problem.plan_problem import PlanProblem
from .result import PlanResult

_COLOURS = {"client": CLIENT, "server": SERVER}


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
    with replacing(Path(path)) as partial:
        figure.savefig(partial, dpi=120, format="png")


def _draw_bars(axes: Axes, result: PlanResult, problem: PlanProblem) -> None:
    labels = []
    units = sorted(problem.units, key=lambda unit: unit.profile.name)[:40]
    for row, unit in enumerate(units):
        cuts = result.plan.by_client[unit.client_ids[0]].cuts
        label = f"{unit.profile.name} x {len(unit.client_ids)}"
        if result.leakage:
            label += f", gives away {result.leakage[unit.client_ids[0]]:.2f}"
        labels.append(label)
        start = 0.0
        for choices in problem.networks:
            number = choices.num_blocks
            served = cuts.server_range(choices.network, number)
            for block in range(number):
                owner = "server" if block in served else "client"
                axes.barh(row, 1, left=start + block, color=_COLOURS[owner], edgecolor="white")
            start += number + 0.5
    sizes = [choices.num_blocks for choices in problem.networks]
    middle = [sum(sizes[:i]) + 0.5 * i + size / 2 for i, size in enumerate(sizes)]
    axes.set_xticks(middle, [f"{choices.network} blocks" for choices in problem.networks])
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
    start = 0.0
    for row, seconds in enumerate(result.stages.values()):
        axes.barh(row, seconds, left=start, color=SERIES[0])
        axes.text(start + seconds, row, f" {seconds:.2f} s", va="center", fontsize=8)
        start += seconds
    labels = [name.replace("_", " ") for name in result.stages]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, start * 1.12)
    axes.set_xlabel(f"one step (s), latency model {result.latency_model}")
