"""When and how to change a running plan, as pure values; a callback applies the decision."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import PlanError
from ..split import NETWORK_NAMES, ClientCuts, ClientPlan, CutPlan, NetworkName
from .corrected_latency import Move
from .fleet import ClientDevice, Fleet, load_mapping, scale_profile
from .genetic import GeneticSettings, search_genetically
from .latency import get_block_costs
from .planner import PlanOptions, PlanSubject, build_problem
from .problem import PlanProblem
from .profiles import read_number
from .search import prove_bound
from .stage_tables import Ints

_DRIFTING = {
    "speed": "speed_flops_per_s",
    "uplink": "uplink_bits_per_s",
    "downlink": "downlink_bits_per_s",
    "memory": "memory_bytes",
}


@dataclass(frozen=True)
class MovedBlock:
    """One block that changes hands at a round's boundary.

    Args:
        client_id: The client.
        network: Which network.
        block: Index of the block.
        direction: "uplink" from the client to the server, "downlink" from the server.
        num_bytes: Down: parameters and, if kept, two moments. Up: the moments alone, as the
            federation has just left the parameters with the server.
    """

    client_id: int
    network: NetworkName
    block: int
    direction: Literal["uplink", "downlink"]
    num_bytes: int


@dataclass(frozen=True)
class ReplanDecision:
    """What to do, and why.

    Args:
        plan: The new plan, or None to keep the running one.
        reason: One line for the log.
        latency_before_s: Seconds of a step if the running plan is kept; inf where it no longer
            fits a device's memory or a limit.
        latency_after_s: Seconds of a step from now on, moving not counted.
        lower_bound_s: Proven bound of the objective under the present profiles.
        moved: What changes hands; empty where the plan is kept.
        seconds: Time that the decision took.
    """

    plan: CutPlan | None
    reason: str
    latency_before_s: float
    latency_after_s: float
    lower_bound_s: float
    moved: tuple[MovedBlock, ...]
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Return the bytes that change hands."""
        return sum(block.num_bytes for block in self.moved)


class Replanner:
    """Compares the running plan with what the present devices would allow.

    Args:
        options: Model, objective and limits, as for the first plan; latency_model corrected.
        num_steps: Steps until the next decision, over which the cost of moving is spread.
        hysteresis: Share of the running plan's objective that a new plan, moving included, must
            save; 0 takes any gain.
        keeps_moments: Whether the optimiser's moments move with a block.
    """

    def __init__(
        self,
        options: PlanOptions,
        num_steps: int,
        hysteresis: float = 0.05,
        keeps_moments: bool = True,
    ) -> None:
        if num_steps < 1:
            raise PlanError(f"num_steps is {num_steps}, must be >= 1")
        if not 0 <= hysteresis < 1:
            raise PlanError(f"hysteresis is {hysteresis}, must be in [0, 1)")
        if options.latency_model != "corrected":
            raise PlanError("latency_model: re-planning counts moved bytes, which needs corrected")
        self.options = options
        self.num_steps = num_steps
        self.hysteresis = hysteresis
        self.keeps_moments = keeps_moments

    def decide(
        self,
        running: CutPlan,
        subject: PlanSubject,
        fleet: Fleet,
        previous: tuple[CutPlan, ...] = (),
    ) -> ReplanDecision:
        """Keep the running plan or replace it.

        Clients are matched by id: one that left is dropped, one that joined gets cuts.

        Args:
            running: The plan in use.
            subject: The networks.
            fleet: Who takes part now, with the present profiles.
            previous: Earlier plans to start the search from as well, best first.

        Raises:
            PlanError: Where no plan fits the present devices and limits.
        """
        start = time.perf_counter()
        is_complete = running.client_ids == [client.client_id for client in fleet.clients]
        base = match_clients(running, fleet)
        move = Move(running, self.num_steps, self.keeps_moments)
        problem = build_problem(subject, fleet, self.options, move)
        solution = problem.from_plan(base)
        is_valid = is_complete and problem.to_plan(solution) == base
        is_valid = is_valid and problem.excess(solution[None])[0] == 0
        value = float(problem.value(solution[None])[0]) if is_valid else np.inf
        before = float(problem.latency_s(solution[None])[0]) if is_valid else np.inf
        bound = prove_bound(problem)[0]
        if value <= bound * (1 + self.hysteresis):
            reason = f"kept: within {self.hysteresis:.1%} of the bound"
            return _keep(reason, before, bound, start)
        best = self._search(problem, solution, previous)
        saved = 1 - float(problem.value(best[None])[0]) / value if is_valid else 1.0
        if saved <= self.hysteresis:
            reason = f"kept: a new plan saves {max(saved, 0.0):.1%}, moving included"
            return _keep(reason, before, bound, start)
        plan = problem.to_plan(best)
        after = float(problem.latency_s(best[None])[0]) - problem.stages(best)["moving"]
        moved = list_moves(running, plan, subject, self.keeps_moments)
        reason = _explain(is_complete, is_valid, saved)
        return ReplanDecision(
            plan, reason, before, after, bound, moved, time.perf_counter() - start
        )

    def _search(self, problem: PlanProblem, solution: Ints, previous: tuple[CutPlan, ...]) -> Ints:
        warm = np.stack([solution, *(problem.from_plan(plan) for plan in previous)])
        settings = GeneticSettings(patience=12)
        best = search_genetically(problem, self.options.seed, settings, warm).solution
        if problem.excess(best[None])[0] > 0:
            raise PlanError("re-planning: no plan fits the present devices and limits")
        return best


@dataclass(frozen=True)
class DriftEvent:
    """Devices that change at a round and stay so.

    Args:
        round: First round in which it holds.
        profile: Profile whose clients change, or None.
        client_id: The client that changes, or None.
        factors: Factor of each figure (speed, uplink, downlink, memory).
    """

    round: int
    profile: str | None
    client_id: int | None
    factors: Mapping[str, float]


@dataclass(frozen=True)
class DriftSchedule:
    """Simulates devices that change during a run.

    Args:
        events: In any order; the factors of several that hold multiply.
    """

    events: tuple[DriftEvent, ...]

    @classmethod
    def load(cls, path: str | Path) -> "DriftSchedule":
        """Read a YAML file {events: [{round, profile or client, speed_factor, ...}]}.

        Raises:
            PlanError: Naming the file, the event and the key at fault.
        """
        values = load_mapping(path)
        events = values.get("events")
        if not isinstance(events, list):
            raise PlanError(f"{path}: events is missing or not a list")
        return cls(tuple(_parse_event(e, f"{path}: events[{i}]") for i, e in enumerate(events)))

    def apply(self, round_index: int, fleet: Fleet) -> Fleet:
        """Return the fleet as it is in a round."""
        active = [event for event in self.events if event.round <= round_index]
        return Fleet(tuple(_drift(client, active) for client in fleet.clients), fleet.server)


def match_clients(running: CutPlan, fleet: Fleet) -> CutPlan:
    """Return the running plan for the clients of the fleet; new ones get the smallest parts."""
    entries = []
    for client in fleet.clients:
        entry = running.by_client.get(client.client_id)
        cuts = entry.cuts if entry else ClientCuts()
        entries.append(ClientPlan(client.client_id, cuts, client.profile.name))
    return CutPlan(running.generator_blocks, running.discriminator_blocks, tuple(entries))


def list_moves(
    running: CutPlan, plan: CutPlan, subject: PlanSubject, keeps_moments: bool = True
) -> tuple[MovedBlock, ...]:
    """Return every block that changes hands between two plans; clients not in both are left out."""
    moved = []
    for entry in plan.clients:
        old = running.by_client.get(entry.client_id)
        if old is None:
            continue
        for network in NETWORK_NAMES:
            count = plan.num_blocks(network)
            was = set(old.cuts.server_range(network, count))
            will = set(entry.cuts.server_range(network, count))
            for block in sorted(was ^ will):
                size = get_block_costs(subject.costs, network)[block].param_bytes
                moments = 2 * size if keeps_moments else 0
                if block in was:
                    moved.append(
                        MovedBlock(entry.client_id, network, block, "downlink", size + moments)
                    )
                else:
                    moved.append(MovedBlock(entry.client_id, network, block, "uplink", moments))
    return tuple(moved)


def _keep(reason: str, latency_s: float, bound: float, start: float) -> ReplanDecision:
    seconds = time.perf_counter() - start
    return ReplanDecision(None, reason, latency_s, latency_s, bound, (), seconds)


def _explain(is_complete: bool, is_valid: bool, saved: float) -> str:
    if not is_complete:
        return "replaced: clients have joined or left"
    if not is_valid:
        return "replaced: the running plan no longer fits memory or limits"
    return f"replaced: saves {saved:.1%}, moving included"


def _parse_event(values: Any, owner: str) -> DriftEvent:
    if not isinstance(values, Mapping):
        raise PlanError(f"{owner}: must be a mapping")
    known = {"round", "profile", "client", *(f"{name}_factor" for name in _DRIFTING)}
    for key in values:
        if key not in known:
            raise PlanError(f"{owner}: unknown key {key}; known: {', '.join(sorted(known))}")
    if ("profile" in values) == ("client" in values):
        raise PlanError(f"{owner}: give either profile or client")
    first = read_number(values, "round", owner, can_be_zero=True)
    names = [name for name in _DRIFTING if f"{name}_factor" in values]
    factors = {name: read_number(values, f"{name}_factor", owner) for name in names}
    return DriftEvent(int(first), values.get("profile"), values.get("client"), factors)


def _drift(client: ClientDevice, active: list[DriftEvent]) -> ClientDevice:
    profile = client.profile
    for event in active:
        if event.profile == profile.name or event.client_id == client.client_id:
            factors = {_DRIFTING[name]: factor for name, factor in event.factors.items()}
            if profile.memory_bytes is None:
                factors.pop("memory_bytes", None)
            profile = scale_profile(profile, factors)
    return ClientDevice(client.client_id, profile, client.batch_size)
