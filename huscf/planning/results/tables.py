"""A plan as tables in the terminal."""

from typing import Any

from ...split import ClientPlan
from ..problem.plan_problem import PlanProblem
from .result import PlanResult


def print_tables(result: PlanResult, problem: PlanProblem) -> None:
    """Print who holds how many blocks, the seconds of each stage, and how good the plan is."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    clients = Table(title=f"plan ({result.strategy}, latency_model {result.latency_model})")
    clients.add_column("profile")
    networks = [choices.network for choices in problem.networks]
    columns = ["clients", *(f"{name}\nhead / tail" for name in networks), "memory MiB"]
    for name in [*columns, *(["gives\naway"] if result.leakage else [])]:
        clients.add_column(name, justify="right")
    for profile, entries in _group_entries(result).items():
        cuts, size = entries[0].cuts, result.memory_bytes[entries[0].client_id]
        clients.add_row(
            profile[0],
            str(len(entries)),
            *(f"{cuts.head(name)} / {cuts.tail(name)}" for name in networks),
            f"{size / 2**20:.1f}",
            *([f"{result.leakage[entries[0].client_id]:.3f}"] if result.leakage else []),
        )
    stages = Table(title="time by stage")
    stages.add_column("stage")
    for name in ("seconds", "share"):
        stages.add_column(name, justify="right")
    for name, seconds in result.stages.items():
        stages.add_row(name, f"{seconds:.4f}", f"{seconds / result.latency_s:.1%}")
    console.print(clients, stages)
    console.print(
        f"{_describe_goal(result, problem.objective.is_latency)}   gap {result.gap:.4%}   "
        f"search {result.seconds:.3f} s   {len(problem.fleet.clients)} clients   "
        f"seed {result.seed}",
        highlight=False,
        soft_wrap=True,
    )

    if result.simulated_s is not None:
        console.print(
            f"event simulation {result.simulated_s:.6f} s   no barriers between passes",
            highlight=False,
            soft_wrap=True,
        )


def _describe_goal(result: PlanResult, is_latency: bool) -> str:
    latency = f"latency {result.latency_s:.6f} s   bound {result.lower_bound_s:.6f}"
    if is_latency:
        return f"{latency} ({result.bound})"
    return (
        f"{latency} ({result.latency_bound})   objective {result.objective_value:.6g}   "
        f"bound {result.objective_bound:.6g} ({result.bound})"
    )


def _group_entries(result: PlanResult) -> dict[tuple[str, Any, int], list[ClientPlan]]:
    groups: dict[tuple[str, Any, int], list[ClientPlan]] = {}
    for entry in result.plan.clients:
        key = (entry.profile, entry.cuts, result.memory_bytes[entry.client_id])
        groups.setdefault(key, []).append(entry)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))
