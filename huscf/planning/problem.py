"""One planning problem as arrays: which options each unit has, and what they cost."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..split import NETWORK_NAMES, ClientCuts, ClientPlan, CutPlan
from .block_costs import PlanCosts
from .constraints import Constraints, Objective
from .fleet import ClientDevice, Fleet
from .latency import LatencyModel, Unit, UnitFigures
from .network_choices import NetworkChoices, make_choices, merge_choices, relax_choices
from .stage_tables import Floats, Ints

# Score of plans that break a limit: worse than any that keeps all, in any unit.
_BROKEN = 1e30


@dataclass(frozen=True)
class PlanProblem:
    """What a strategy searches: an option of each network for each unit.

    A solution is a (units, 2) array of option indices, [generator, discriminator].

    Args:
        fleet: The clients and the server.
        units: Who shares cuts.
        generator: The generator's choices.
        discriminator: The discriminator's choices.
        is_feasible: (units, generator options, discriminator options): fits the memory.
        model: The latency model.
        num_blocks: Blocks of generator and discriminator.
        constraints: Hard limits.
        objective: What to make small.
    """

    fleet: Fleet
    units: tuple[Unit, ...]
    generator: NetworkChoices
    discriminator: NetworkChoices
    is_feasible: NDArray[np.bool_]
    model: LatencyModel
    num_blocks: tuple[int, int]
    constraints: Constraints
    objective: Objective

    @property
    def networks(self) -> tuple[NetworkChoices, NetworkChoices]:
        """Return the choices of generator and discriminator."""
        return self.generator, self.discriminator

    @cached_property
    def limits_memory(self) -> bool:
        """Return whether some device cannot hold everything."""
        return not bool(self.is_feasible.all())

    def latency_s(self, solutions: Ints) -> Floats:
        """Return the (plans,) seconds of (plans, units, 2) solutions."""
        seconds = [c.tables.seconds(solutions[:, :, i]) for i, c in enumerate(self.networks)]
        return seconds[0] + seconds[1]

    def traffic_bytes(self, solutions: Ints) -> Floats:
        """Return the (plans,) bytes of a step of (plans, units, 2) solutions."""
        return self._sum(solutions, [c.traffic_bytes for c in self.networks])

    def energy_j(self, solutions: Ints) -> Floats:
        """Return the (plans,) joules of a step of (plans, units, 2) solutions."""
        return self._sum(solutions, [c.energy_j for c in self.networks])

    def value(self, solutions: Ints) -> Floats:
        """Return the (plans,) objective of (plans, units, 2) solutions."""
        goal = self.objective
        total = goal.latency_weight * self.latency_s(solutions)
        if goal.bytes_weight:
            total = total + goal.bytes_weight * self.traffic_bytes(solutions)
        if goal.energy_weight:
            total = total + goal.energy_weight * self.energy_j(solutions)
        return total

    def score(self, solutions: Ints) -> Floats:
        """Return the objective, or for plans that break limits a huge score that grows with it."""
        excess = self.excess(solutions)
        return np.where(excess > 0, _BROKEN * (1 + excess), self.value(solutions))

    def excess(self, solutions: Ints) -> Floats:
        """Return by how much (plans, units, 2) solutions break limits; 0 breaks none."""
        excess = np.zeros(len(solutions))
        if self.limits_memory:
            places = np.arange(len(self.units))
            fits = self.is_feasible[places, solutions[:, :, 0], solutions[:, :, 1]]
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
        """Return the (plans,) blocks by which (plans, units, 2) solutions miss a common boundary.

        Boundary b lies before block b of the discriminator; 0 where one of them is at the server
        for all clients.
        """
        head, tail = self.discriminator.options[solutions[:, :, 1]].max(axis=1).T
        return np.maximum(0, head + tail - self.num_blocks[1])

    def stages(self, solution: Ints) -> dict[str, float]:
        """Return the seconds by stage of one (units, 2) solution; they sum to the latency."""
        seconds: dict[str, float] = {}
        for index, choices in enumerate(self.networks):
            tables = choices.tables
            values = tables.finish(tables.combine(solution[None, :, index]))[:, 0]
            for (name, _, _), value in zip(tables.outputs, values, strict=True):
                seconds[name] = seconds.get(name, 0.0) + float(value)
        return seconds

    def to_plan(self, solution: Ints) -> CutPlan:
        """Return the cut plan of one (units, 2) solution."""
        entries = []
        for unit, pair in zip(self.units, solution, strict=True):
            counts = [*self.generator.options[pair[0]], *self.discriminator.options[pair[1]]]
            cuts = ClientCuts(*(int(count) for count in counts))
            entries += [ClientPlan(c, cuts, self._name(c)) for c in unit.client_ids]
        entries.sort(key=lambda entry: entry.client_id)
        return CutPlan(*self.num_blocks, tuple(entries))

    def from_plan(self, plan: CutPlan) -> Ints:
        """Return the (units, 2) solution nearest to a plan: the cuts of each unit's first client.

        Cuts that the constraints no longer allow become the first option.
        """
        solution = np.zeros((len(self.units), 2), dtype=np.int64)
        for row, unit in enumerate(self.units):
            entry = plan.by_client.get(unit.client_ids[0])
            if entry is None:
                continue
            counts = entry.cuts.as_list()
            for index, choices in enumerate(self.networks):
                same = (choices.options == counts[2 * index : 2 * index + 2]).all(axis=1)
                solution[row, index] = int(np.argmax(same))
        return solution

    def merge(self, members: Sequence[Ints]) -> "PlanProblem":
        """Return the problem in which the units of each group share their cuts."""
        units = tuple(_join_units([self.units[i] for i in group]) for group in members)
        return replace(
            self,
            units=units,
            generator=merge_choices(self.generator, members),
            discriminator=merge_choices(self.discriminator, members),
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
            generator=relax_choices(self.generator, members),
            discriminator=relax_choices(self.discriminator, members),
            is_feasible=np.stack([self.is_feasible[group].any(axis=0) for group in members]),
        )

    def _name(self, client: int) -> str:
        return self.fleet.by_client[client].profile.name

    def _sum(self, solutions: Ints, costs: Sequence[Floats]) -> Floats:
        places = np.arange(len(self.units))
        both = [cost[places, solutions[:, :, i]].sum(axis=1) for i, cost in enumerate(costs)]
        return both[0] + both[1]


def make_problem(
    fleet: Fleet,
    costs: PlanCosts,
    model: LatencyModel,
    constraints: Constraints | None = None,
    objective: Objective | None = None,
    group_by: Callable[[ClientDevice], Hashable] | None = None,
) -> PlanProblem:
    """Build the arrays of a planning problem.

    Args:
        fleet: The clients and the server.
        costs: Measured costs, from which traffic, energy and memory follow.
        model: The latency model.
        constraints: Hard limits; None sets none but the devices' memory.
        objective: What to make small; None is the latency.
        group_by: Further reason, beside device and batch size, to plan two clients apart.

    Raises:
        PlanError: Where constraints leave no cut, a device cannot hold even the smallest parts,
            or energy is asked for and a profile has no power_w.
    """
    constraints, objective = constraints or Constraints(), objective or Objective()
    units = _group_clients(fleet, group_by)
    figures = UnitFigures(units, fleet.server)
    _check_power(fleet, constraints, objective)
    choices = [
        make_choices(network, costs, model, constraints, figures) for network in NETWORK_NAMES
    ]
    return PlanProblem(
        fleet,
        units,
        choices[0],
        choices[1],
        _check_memory(units, choices[0].memory_bytes, choices[1].memory_bytes),
        model,
        (len(costs.generator), len(costs.discriminator)),
        constraints,
        objective,
    )


def _group_clients(
    fleet: Fleet, group_by: Callable[[ClientDevice], Hashable] | None
) -> tuple[Unit, ...]:
    groups: dict[Hashable, list[ClientDevice]] = {}
    for client in fleet.clients:
        extra = group_by(client) if group_by else None
        groups.setdefault((client.profile, client.batch_size, extra), []).append(client)
    return tuple(
        Unit(group[0].profile, group[0].batch_size, tuple(c.client_id for c in group))
        for group in groups.values()
    )


def _check_power(fleet: Fleet, constraints: Constraints, objective: Objective) -> None:
    if not objective.energy_weight and constraints.max_energy_j is None:
        return
    for client in fleet.clients:
        if client.profile.power_w is None:
            raise PlanError(f"profiles: {client.profile.name}: power_w is missing (for the energy)")


def _check_memory(
    units: Sequence[Unit], generator_bytes: Floats, discriminator_bytes: Floats
) -> NDArray[np.bool_]:
    needed = generator_bytes[:, :, None] + discriminator_bytes[:, None, :]
    room = np.array([_get_memory(unit) for unit in units])
    fits: NDArray[np.bool_] = needed <= room[:, None, None]
    smallest = needed.min(axis=(1, 2))
    for unit, least in zip(units, smallest, strict=True):
        if least > _get_memory(unit):
            missing = least - _get_memory(unit)
            raise PlanError(
                f"client {unit.client_ids[0]} (profile {unit.profile.name}): memory_mib is too "
                f"small even for the smallest parts, {missing:.0f} bytes are missing "
                f"of {least:.0f}"
            )
    return fits


def _get_memory(unit: Unit) -> float:
    return np.inf if unit.profile.memory_bytes is None else unit.profile.memory_bytes


def _join_units(units: Sequence[Unit]) -> Unit:
    clients = sorted(client for unit in units for client in unit.client_ids)
    return Unit(units[0].profile, units[0].batch_size, tuple(clients))
