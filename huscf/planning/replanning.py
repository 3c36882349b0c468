"""When and how to change a running plan, as pure values; a callback applies the decision."""

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import PlanError
from ..split import ClientPlan, CutPlan
from .devices.fleet import Fleet
from .latency.overheads import Move
from .latency.stage_tables import Ints
from .planner import PlanOptions, PlanSubject, build_problem
from .problem.plan_cuts import smallest_cuts
from .problem.plan_problem import PlanProblem
from .search.common_boundary import evolve_comparable
from .search.genetic import GeneticSettings
from .search.strategies import prove_bound


@dataclass(frozen=True)
class MovedBlock:
    """One block that changes hands at a round's boundary.

    Args:
        client_id: The client.
        network: Which network.
        block: Index of the block.
        direction: "uplink" from the client to the server, "downlink" from the server.
        num_bytes: Down: parameters and, if kept, two moments. Up: the moments alone, as the
            federation has just left the parameters with the server; 0 where the server has a
            copy of the block already, with which it goes on.
    """

    client_id: int
    network: str
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


@dataclass(frozen=True)
class Replanner:
    """Compares the running plan with what the present devices would allow.

    Args:
        options: Model, objective and limits, as for the first plan; latency_model corrected.
        num_steps: Steps until the next decision, over which the cost of moving is spread.
        hysteresis: Share of the running plan's objective that a new plan, moving included, must
            save; 0 takes any gain.
        keeps_moments: Whether the optimiser's moments move with a block.
    """

    options: PlanOptions
    num_steps: int
    hysteresis: float = 0.05
    keeps_moments: bool = True

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise PlanError(f"num_steps is {self.num_steps}, must be >= 1")
        if not 0 <= self.hysteresis < 1:
            raise PlanError(f"hysteresis is {self.hysteresis}, must be in [0, 1)")
        if self.options.latency_model != "corrected":
            raise PlanError("latency_model: re-planning counts moved bytes, which needs corrected")

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
        settings = GeneticSettings(population=200, patience=12)
        best = evolve_comparable(problem, self.options.seed, settings, warm)
        if problem.excess(best[None])[0] > 0:
            raise PlanError("re-planning: no plan fits the present devices and limits")
        return best


def measure_latency(
    running: CutPlan, subject: PlanSubject, fleet: Fleet, options: PlanOptions
) -> float:
    """Return the seconds of one step of a running plan on the present devices.

    Args:
        running: The plan in use, for exactly the clients of the fleet.
        subject: The networks.
        fleet: The clients with their present profiles.
        options: Which latency model.
    """
    move = Move(running, 1) if options.latency_model == "corrected" else None
    # The plan runs, whether the devices' memory is said to have room for it or not.
    clients = (replace(c, profile=replace(c.profile, memory_bytes=None)) for c in fleet.clients)
    problem = build_problem(subject, Fleet(tuple(clients), fleet.server), options, move)
    return float(problem.latency_s(problem.from_plan(match_clients(running, fleet))[None])[0])


def match_clients(running: CutPlan, fleet: Fleet) -> CutPlan:
    """Return the running plan for the clients of the fleet; new ones get the smallest parts."""
    entries = []
    for client in fleet.clients:
        entry = running.by_client.get(client.client_id)
        cuts = entry.cuts if entry else smallest_cuts(running.networks)
        entries.append(ClientPlan(client.client_id, cuts, client.profile.name))
    return replace(running, clients=tuple(entries))


def list_moves(
    running: CutPlan, plan: CutPlan, subject: PlanSubject, keeps_moments: bool = True
) -> tuple[MovedBlock, ...]:
    """Return every block that changes hands between two plans; clients not in both are left out."""
    moved = []
    served = {network: set(running.server_blocks(network)) for network in subject.costs.blocks}
    for entry in plan.clients:
        old = running.by_client.get(entry.client_id)
        if old is None:
            continue
        for network, blocks in subject.costs.blocks.items():
            was = set(old.cuts.server_range(network, len(blocks)))
            will = set(entry.cuts.server_range(network, len(blocks)))
            for block in sorted(was ^ will):
                size = blocks[block].param_bytes
                moments = 2 * size if keeps_moments else 0
                if block in was:
                    moved.append(
                        MovedBlock(entry.client_id, network, block, "downlink", size + moments)
                    )
                else:
                    sent = 0 if block in served[network] else moments
                    moved.append(MovedBlock(entry.client_id, network, block, "uplink", sent))
    return tuple(moved)


def _keep(reason: str, latency_s: float, bound: float, start: float) -> ReplanDecision:
    seconds = time.perf_counter() - start
    return ReplanDecision(None, reason, latency_s, latency_s, bound, (), seconds)


def _explain(is_complete: bool, is_valid: bool, saved: float) -> str:
    if not is_complete:
        return "replaced: clients have joined or left"
    if not is_valid:
        return "replaced: the running plan no longer fits memory, limits or common_boundary"
    return f"replaced: saves {saved:.1%}, moving included"
