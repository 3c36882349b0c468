"""Latency against traffic, energy or leakage: the best plans under ever tighter limits.

    python benchmarks/trade_off.py --config configs/paper/devices.yaml --picture trade_off.png
    python benchmarks/trade_off.py --config devices.yaml --against leakage --leakage leakage.json

The devices file is that of `huscf plan`, its limits stay in force.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from huscf.errors import HuscfError, PlanError
from huscf.planning import Objective, PlanProblem, SearchSettings, search_plan
from huscf.planning.job import PlanJob
from huscf.planning.latency.stage_tables import Ints
from huscf.planning.results.result import check_output
from huscf.planning.search.common_boundary import evolve_comparable
from huscf.split import CutPlan

Rival = Literal["bytes", "energy", "leakage"]
# Name and unit of the axes, with the bytes and joules of the unit.
_AXES = {
    "bytes": ("traffic of a step (MB)", 1e6),
    "energy": ("energy of a step (J)", 1.0),
    "leakage": ("variance of samples that the worst cut gives away (%)", 0.01),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the undominated plans as a table, or with --json as one list; 2 for bad input."""
    parser = argparse.ArgumentParser(description="Latency of a step against another figure.")
    parser.add_argument("--config", required=True, help="devices file of huscf plan")
    parser.add_argument("--against", choices=get_args(Rival), default="bytes")
    parser.add_argument("--points", type=int, default=9, help="limits to try, at least 2")
    parser.add_argument("--leakage", help="file of huscf leakage or huscf audit")
    parser.add_argument("--picture", help="PNG file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        if arguments.picture:
            check_output(arguments.picture, arguments.overwrite)
        job = PlanJob.load(arguments.config, {"leakage": arguments.leakage})
        settings = job.options.search_settings
        if arguments.against == "leakage":
            points = sweep_leakage(job)
        else:
            points = sweep_trade_off(job.build(), arguments.against, settings, arguments.points)
    except (HuscfError, OSError) as error:
        print(f"trade_off: {error}", file=sys.stderr)
        return 2
    if arguments.picture:
        draw_trade_off(points, arguments.against, arguments.picture)
    if arguments.json:
        rows = [asdict(point) | {"plan": point.plan.to_dict()} for point in points]
        print(json.dumps(rows))
        return 0
    label, unit = _AXES[arguments.against]
    print(f"| latency of a step (s) | {label} |\n|---|---|")
    for point in points:
        print(f"| {point.latency_s:.4f} | {point.rival / unit:.2f} |")
    return 0


@dataclass(frozen=True)
class TradeOffPoint:
    """One plan that no other of the sweep beats in both figures.

    Args:
        plan: The cuts.
        latency_s: Seconds of a step.
        rival: Bytes or joules of all clients in a step, or the largest share of the samples'
            variance that a client's cut gives away.
    """

    plan: CutPlan
    latency_s: float
    rival: float


def sweep_trade_off(
    problem: PlanProblem, against: Rival, settings: SearchSettings, num_points: int = 9
) -> list[TradeOffPoint]:
    """Search the fastest plan under limits from loose to the least that is possible.

    Args:
        problem: The problem; its own limits stay in force.
        against: What is limited.
        settings: Seed and settings of the genetic search.
        num_points: Limits to try, at least 2.

    Returns:
        Points by rising latency, the dominated ones left out.

    Raises:
        PlanError: Where there are too few points, or energy is wanted and a profile has no
            power_w.
    """
    if num_points < 2:
        raise PlanError(f"--points is {num_points}, must be >= 2")
    for client in problem.fleet.clients if against == "energy" else ():
        if client.profile.power_w is None:
            raise PlanError(f"--against energy: profile {client.profile.name} has no power_w")
    fast = replace(problem, objective=Objective())
    goal = Objective(0.0, bytes_weight=1.0) if against == "bytes" else Objective(0.0, 0.0, 1.0)
    frugal = replace(problem, objective=goal)
    ends = [_search(one, settings, None) for one in (fast, frugal)]
    most, least = (_measure(problem, against, solution) for solution in ends)
    solutions = list(ends)
    for limit in np.geomspace(most, least, num_points)[1:-1].tolist():
        if against == "bytes":
            limits = replace(problem.constraints, max_bytes_per_step=limit)
        else:
            limits = replace(problem.constraints, max_energy_j=limit)
        solutions.append(_search(replace(fast, constraints=limits), settings, np.stack(ends)))
    points = [
        TradeOffPoint(
            problem.to_plan(solution),
            float(problem.latency_s(solution[None])[0]),
            _measure(problem, against, solution),
        )
        for solution in solutions
        if problem.excess(solution[None])[0] == 0
    ]
    return keep_undominated(points)


def sweep_leakage(job: PlanJob) -> list[TradeOffPoint]:
    """Search the fastest plan under every limit of leakage that makes a difference.

    Returns:
        Points by rising latency, the dominated ones left out.

    Raises:
        PlanError: Where the leakage has not been measured, or no limit can be kept.
    """
    if (leakage := job.options.measured_leakage) is None:
        raise PlanError("--against leakage: give --leakage, a file of huscf leakage or huscf audit")
    points: list[TradeOffPoint] = []
    for share in reversed(leakage.list_above(-1.0)):
        limited = replace(job, options=replace(job.options, max_leakage=share))
        try:
            result = search_plan(limited.build(), job.options.search_settings)
        except PlanError:
            if not points:
                raise
            break  # a tighter one is no more possible
        points.append(TradeOffPoint(result.plan, result.latency_s, max(result.leakage.values())))
    return keep_undominated(points)


def keep_undominated(points: list[TradeOffPoint]) -> list[TradeOffPoint]:
    """Return the points that no other beats in both figures, by rising latency."""
    kept: list[TradeOffPoint] = []
    for point in sorted(points, key=lambda point: (point.latency_s, point.rival)):
        if not kept or point.rival < kept[-1].rival * (1 - 1e-12):
            kept.append(point)
    return kept


def draw_trade_off(points: Sequence[TradeOffPoint], against: Rival, path: str | Path) -> None:
    """Draw latency against the other figure.

    Args:
        points: Undominated plans.
        against: What the other axis is.
        path: PNG file to write.
    """
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    label, unit = _AXES[against]
    axes.plot(
        [point.rival / unit for point in points],
        [point.latency_s for point in points],
        marker="o",
        drawstyle="steps-pre",
        color="#2a7fb8",
    )
    axes.set(xlabel=label, ylabel="latency of a step (s)", title="best plans under a limit")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")


def _search(problem: PlanProblem, settings: SearchSettings, warm_start: Ints | None) -> Ints:
    return evolve_comparable(problem, settings.seed, settings.genetic, warm_start)


def _measure(problem: PlanProblem, against: Rival, solution: Ints) -> float:
    figure = problem.traffic_bytes if against == "bytes" else problem.energy_j
    return float(figure(solution[None])[0])


if __name__ == "__main__":
    sys.exit(main())
