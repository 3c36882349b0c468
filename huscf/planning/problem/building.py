"""Builds the arrays of a planning problem from devices, costs and limits."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ..costs.plan_costs import PlanCosts
from ..devices.fleet import ClientDevice, Fleet
from ..devices.units import Unit, UnitFigures
from ..latency.model import LatencyModel
from ..latency.stage_tables import Floats
from .constraints import Constraints, Objective
from .network_choices import NetworkChoices, make_choices
from .plan_problem import PlanProblem

_Tables = tuple[tuple[NetworkChoices, ...], NDArray[np.bool_]]


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
            energy is asked for and a profile has no power_w, or leakage and nobody has measured
            it.
    """
    constraints, objective = constraints or Constraints(), objective or Objective()
    units = _group_clients(fleet, group_by)
    _check_power(fleet, constraints, objective)
    _check_leakage(costs, constraints, objective)
    constraints.check_cut_names(costs.blocks)
    networks, is_feasible = _tabulate(units, fleet, costs, model, constraints)
    return PlanProblem(
        fleet,
        units,
        networks,
        is_feasible,
        costs.passes,
        model,
        constraints,
        objective,
        costs.leakage,
    )


def _tabulate(
    units: tuple[Unit, ...],
    fleet: Fleet,
    costs: PlanCosts,
    model: LatencyModel,
    constraints: Constraints,
) -> _Tables:
    """Return the options of every network, and which of them fit the devices together.

    Raises:
        PlanError: Where a device is left with none; it names the least possible max_leakage where
            that one leaves none.
    """
    figures = UnitFigures(units, fleet.server)

    def tabulate(limits: Constraints) -> _Tables:
        names = costs.blocks
        networks = tuple(make_choices(name, costs, model, limits, figures) for name in names)
        return networks, _check_memory(units, [choices.memory_bytes for choices in networks])

    try:
        return tabulate(constraints)
    except PlanError as error:
        least = _find_least_leakage(tabulate, costs, constraints)
        if least is None:
            raise
        raise PlanError(
            f"max_leakage {constraints.max_leakage:g}: no plan gives away so little; the least "
            f"that memory and the other limits on cuts leave all clients is {least:g}"
        ) from error


def _find_least_leakage(
    tabulate: Callable[[Constraints], _Tables], costs: PlanCosts, constraints: Constraints
) -> float | None:
    """Return the least max_leakage that leaves every device a cut, None where it is not that."""
    if constraints.max_leakage is None or costs.leakage is None:
        return None
    for share in costs.leakage.list_above(constraints.max_leakage):
        try:
            tabulate(replace(constraints, max_leakage=share))
        except PlanError:
            continue
        return math.ceil(round(share * 1e4, 6)) / 1e4
    return None


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


def _check_leakage(costs: PlanCosts, constraints: Constraints, objective: Objective) -> None:
    if costs.leakage is not None:
        costs.leakage.check(costs.blocks)
    elif constraints.max_leakage is not None or objective.leakage_weight:
        name = "leakage_weight" if objective.leakage_weight else "max_leakage"
        raise PlanError(
            f"{name}: what cuts give away has not been measured; give leakage, a file that huscf "
            "leakage or huscf audit writes"
        )


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
