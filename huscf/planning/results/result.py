"""What a search returns: the plan, its figures by stage, and how far it may be from the best."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import PlanError
from ...split import CutPlan


@dataclass(frozen=True)
class PlanResult:
    """A plan with its figures.

    Args:
        plan: The cuts of all clients.
        latency_s: Seconds of one step.
        lower_bound_s: Proven lower bound of the latency.
        latency_bound: Which bound lower_bound_s is; `bound` where only latency counts.
        objective_value: What was made small; the latency by default.
        objective_bound: Proven lower bound of it.
        bound: Which bound objective_bound is, and for which plans it holds.
        gap: objective_value / objective_bound - 1.
        seconds: Wall-clock time of search and proof.
        strategy: How it was found.
        latency_model: "paper" or "corrected".
        seed: Seed of the search.
        stages: Seconds of each stage of a step; they sum to latency_s.
        memory_bytes: By client id.
        traffic_bytes: Bytes of all clients in a step.
        energy_j: Joules of all clients in a step, or None without power figures.
        leakage: Share of the samples' variance that each client's cut gives away, by client id;
            empty where nobody has measured it.
        simulated_s: Seconds of one step in the event simulation, or None where nobody asked.
    """

    plan: CutPlan
    latency_s: float
    lower_bound_s: float
    latency_bound: str
    objective_value: float
    objective_bound: float
    bound: str
    gap: float
    seconds: float
    strategy: str
    latency_model: str
    seed: int
    stages: Mapping[str, float]
    memory_bytes: Mapping[int, int]
    traffic_bytes: float
    energy_j: float | None
    leakage: Mapping[int, float]
    simulated_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **self.summarize(),
            "clients": [
                {
                    "client": entry.client_id,
                    "profile": entry.profile,
                    "cuts": entry.cuts.as_list(),
                    "memory_bytes": self.memory_bytes[entry.client_id],
                    **({"leakage": self.leakage[entry.client_id]} if self.leakage else {}),
                }
                for entry in self.plan.clients
            ],
        }

    def summarize(self) -> dict[str, Any]:
        """Return the figures without the clients."""
        left_out = ("plan", "memory_bytes", "traffic_bytes", "energy_j", "leakage")
        names = [entry.name for entry in fields(self) if entry.name not in left_out]
        return {
            **{name: getattr(self, name) for name in names},
            "stages": dict(self.stages),
            "traffic_bytes_per_step": self.traffic_bytes,
            "energy_j_per_step": self.energy_j,
            "largest_leakage": max(self.leakage.values(), default=None),
        }

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write plan and figures as YAML that `SavedPlan` reads.

        Raises:
            PlanError: Where the file exists and may not be overwritten.
        """
        check_output(path, overwrite)
        self.plan.save(path, **self.summarize())


def check_output(path: str | Path, overwrite: bool) -> None:
    """Raise a PlanError unless a file may be written here."""
    target = Path(path)
    if target.exists() and not overwrite:
        raise PlanError(f"{path}: exists already; use --overwrite to replace it")
    if not target.parent.is_dir():
        raise PlanError(f"{path}: the folder {target.parent} does not exist")
