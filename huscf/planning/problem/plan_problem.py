"""One planning problem as arrays: which options each unit has, and what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...split import ClientPlan, CutPlan
from ..costs.leakage import Leakage
from ..costs.plan_costs import StepPass
from ..devices.fleet import Fleet
from ..devices.units import Unit
from ..latency.model import LatencyModel
from ..latency.stage_tables import Floats, Ints
from .constraints import Constraints, Objective
from .network_choices import NetworkChoices, merge_choices, relax_choices
from .plan_cuts import make_cuts, make_plan

# Score of plans that break a limit: worse than any that keeps all, in any unit.
_BROKEN = 1e30


@dataclass(frozen=True)
class PlanProblem:
    """What a strategy searches: an option of each network for each unit.

    A solution is a (units, networks) array of option indices.

    Args:
        fleet: The clients and the server.
        units: Who shares cuts.
        networks: The choices of each network.
        is_feasible: (units, options of the first network, of the second, ...): fits the memory.
        passes: What a step runs.
        model: The latency model.
        constraints: Hard limits.
        objective: What to make small.
        leakage: What cuts give away of the samples, or None where nobody has measured it.
    """

    fleet: Fleet
    units: tuple[Unit, ...]
    networks: tuple[NetworkChoices, ...]
    is_feasible: NDArray[np.bool_]
    passes: tuple[StepPass, ...]
    model: LatencyModel
    constraints: Constraints
    objective: Objective
    leakage: Leakage | None = None

    @cached_property
    def observed(self) -> int | None:
        """Return the place of the network that the server compares clients by, or None."""
        observed = {one.network for one in self.passes if one.is_observed}
        places = [i for i, choices in enumerate(self.networks) if choices.network in observed]
        return places[0] if places else None

    @cached_property
    def limits_memory(self) -> bool:
        """Return whether some device cannot hold everything."""
        return not bool(self.is_feasible.all())

    def latency_s(self, solutions: Ints) -> Floats:
        """Return the (plans,) seconds of (plans, units, networks) solutions."""
        seconds = [c.tables.seconds(solutions[:, :, i]) for i, c in enumerate(self.networks)]
        return np.sum(seconds, axis=0)

    def traffic_bytes(self, solutions: Ints) -> Floats:
        """Return the (plans,) bytes of a step of (plans, units, networks) solutions."""
        return self._sum(solutions, [c.traffic_bytes for c in self.networks])

    def energy_j(self, solutions: Ints) -> Floats:
        """Return the (plans,) joules of a step of (plans, units, networks) solutions."""
        return self._sum(solutions, [c.energy_j for c in self.networks])

    def mean_leakage(self, solutions: Ints) -> Floats:
        """Return the (plans,) shares of the samples' variance given away, means over clients."""
        return self._sum(solutions, [c.leakage for c in self.networks])

    def value(self, solutions: Ints) -> Floats:
        """Return the (plans,) objective of (plans, units, networks) solutions."""
        goal = self.objective
        total = goal.latency_weight * self.latency_s(solutions)
        if not goal.is_latency:
            total = total + self._sum(solutions, [c.weigh(goal) for c in self.networks])
        return total

    def score(self, solutions: Ints) -> Floats:
        """Return the objective, or for plans that break limits a huge score that grows with it."""
        excess = self.excess(solutions)
        return np.where(excess > 0, _BROKEN * (1 + excess), self.value(solutions))

    def excess(self, solutions: Ints) -> Floats:
        """Return by how much (plans, units, networks) solutions break limits; 0 breaks none."""
        excess = np.zeros(len(solutions))
        if self.limits_memory:
            places = np.arange(len(self.units))
            fits = self.is_feasible[(places, *np.moveaxis(solutions, 2, 0))]
            excess += (~fits).sum(axis=1)
        limits = self.constraints
        for limit, figure in (
            (limits.max_latency_s, self.latency_s),
            (limits.max_bytes_per_step, self.traffic_bytes),
            (limits.max_energy_j, self.energy_j),
        ):
            if limit is not None:
                excess += np.maximum(0.0, figure(solutions) / limit - 1 - 1e-9)
        return excess + self.misses(solutions) if limits.common_boundary else excess

    def misses(self, solutions: Ints) -> Ints:
        """Return the (plans,) blocks by which solutions miss a common boundary.

        Boundary b lies before block b of the observed network; 0 where one of them is at the
        server for all clients, or no network is observed.
        """
        if self.observed is None:
            return np.zeros(len(solutions), dtype=np.int64)
        choices = self.networks[self.observed]
        head, tail = choices.options[solutions[:, :, self.observed]].max(axis=1).T
        return np.maximum(0, head + tail - choices.num_blocks)

    def stages(self, solution: Ints) -> dict[str, float]:
        """Return the seconds by stage of one solution; they sum to the latency.

        The passes come first, in the order of a step.
        """
        seconds: dict[str, float] = {}
        for index, choices in enumerate(self.networks):
            tables = choices.tables
            values = tables.finish(tables.combine(solution[None, :, index]))[:, 0]
            for (name, _, _), value in zip(tables.outputs, values, strict=True):
                seconds[name] = seconds.get(name, 0.0) + float(value)
        first = [one.name for one in self.passes if one.name in seconds]
        return {name: seconds[name] for name in dict.fromkeys([*first, *seconds])}

    def to_plan(self, solution: Ints) -> CutPlan:
        """Return the cut plan of one (units, networks) solution."""
        entries = []
        for unit, row in zip(self.units, solution, strict=True):
            chosen = zip(self.networks, row, strict=True)
            cuts = make_cuts({c.network: c.options[option].tolist() for c, option in chosen})
            entries += [ClientPlan(c, cuts, self._name(c)) for c in unit.client_ids]
        entries.sort(key=lambda entry: entry.client_id)
        num_blocks = {choices.network: choices.num_blocks for choices in self.networks}
        return make_plan(num_blocks, tuple(entries))

    def from_plan(self, plan: CutPlan) -> Ints:
        """Return the solution nearest to a plan: the cuts of each unit's first client.

        Cuts that the constraints no longer allow become the first option.
        """
        solution = np.zeros((len(self.units), len(self.networks)), dtype=np.int64)
        for row, unit in enumerate(self.units):
            entry = plan.by_client.get(unit.client_ids[0])
            if entry is None:
                continue
            for index, choices in enumerate(self.networks):
                ends = entry.cuts.head(choices.network), entry.cuts.tail(choices.network)
                same = (choices.options == ends).all(axis=1)
                solution[row, index] = int(np.argmax(same))
        return solution

    def merge(self, members: Sequence[Ints]) -> "PlanProblem":
        """Return the problem in which the units of each group share their cuts."""
        units = tuple(_join_units([self.units[i] for i in group]) for group in members)
        return replace(
            self,
            units=units,
            networks=tuple(merge_choices(choices, members) for choices in self.networks),
            is_feasible=np.stack([self.is_feasible[group].all(axis=0) for group in members]),
        )

    def relax(self, members: Sequence[Ints]) -> "PlanProblem":
        """Return a problem no worse than this: each group acts like its best member in each term.

        Its optimum, also a fractional one, is a lower bound of this problem's.

        Args:
            members: Units of each group.
        """
        merged = self.merge(members)
        return replace(
            merged,
            networks=tuple(relax_choices(choices, members) for choices in self.networks),
            is_feasible=np.stack([self.is_feasible[group].any(axis=0) for group in members]),
        )

    def _name(self, client: int) -> str:
        return self.fleet.by_client[client].profile.name

    def _sum(self, solutions: Ints, costs: Sequence[Floats]) -> Floats:
        places = np.arange(len(self.units))
        parts = [cost[places, solutions[:, :, i]].sum(axis=1) for i, cost in enumerate(costs)]
        return np.sum(parts, axis=0)


def _join_units(units: Sequence[Unit]) -> Unit:
    clients = sorted(client for unit in units for client in unit.client_ids)
    return Unit(units[0].profile, units[0].batch_size, tuple(clients))
