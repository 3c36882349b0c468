"""Builds the arrays of a planning problem from devices, costs and limits."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ..costs.plan_costs import PlanCosts
from ..devices.fleet import ClientDevice, Fleet
from ..devices.units import Unit, UnitFigures
from ..latency.model import LatencyModel
from ..latency.stage_tables import Floats
from .constraints import Constraints, Objective
from .network_choices import make_choices
from .plan_problem import PlanProblem


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
        costs: Measured costs and passes, from which traffic, energy and memory follow.
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
    constraints.check_cut_names(costs.blocks)
    networks = tuple(
        make_choices(network, costs, model, constraints, figures) for network in costs.blocks
    )
    is_feasible = _check_memory(units, [choices.memory_bytes for choices in networks])
    return PlanProblem(
        fleet, units, networks, is_feasible, costs.passes, model, constraints, objective
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


def _check_memory(units: Sequence[Unit], by_network: Sequence[Floats]) -> NDArray[np.bool_]:
    room = np.array([_get_memory(unit) for unit in units])
    needed = np.zeros(len(units))
    for num_bytes in by_network:
        needed = needed[..., None] + np.expand_dims(num_bytes, tuple(range(1, needed.ndim)))
    fits: NDArray[np.bool_] = needed <= np.expand_dims(room, tuple(range(1, needed.ndim)))
    smallest = needed.reshape(len(units), -1).min(axis=1)
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
