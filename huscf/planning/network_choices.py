"""The options of one network, and what each would cost each unit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..split import NetworkName
from .block_costs import PlanCosts
from .constraints import (
    Constraints,
    count_client_work,
    count_traffic,
    estimate_energy,
    estimate_memory,
)
from .latency import LatencyModel, UnitFigures, get_block_costs
from .stage_tables import Floats, Ints, StageTables, stack_stages


@dataclass(frozen=True)
class NetworkChoices:
    """The options of one network and what each costs each unit.

    Args:
        options: (options, 2) head and tail blocks.
        tables: Seconds.
        traffic_bytes: (units, options), of all the unit's clients in a step.
        energy_j: (units, options), of all the unit's clients in a step; 0 without power figures.
        memory_bytes: (units, options), of one client.
    """

    options: Ints
    tables: StageTables
    traffic_bytes: Floats
    energy_j: Floats
    memory_bytes: Floats


def make_choices(
    network: NetworkName,
    costs: PlanCosts,
    model: LatencyModel,
    constraints: Constraints,
    figures: UnitFigures,
) -> NetworkChoices:
    """Tabulate what every allowed option of one network costs every unit.

    Raises:
        PlanError: Where the constraints leave no option.
    """
    num_blocks = len(get_block_costs(costs, network))
    options = constraints.filter_options(network, model.list_options(network, num_blocks))
    traffic = count_traffic(costs, network, options)
    energy = np.zeros((len(figures.units), len(options)))
    if all(unit.profile.power_w is not None for unit in figures.units):
        work = count_client_work(costs, network, options)
        energy = figures.counts * estimate_energy(traffic, work, figures)
    return NetworkChoices(
        options,
        stack_stages(model.make_stages(network, options, figures)),
        figures.counts * figures.batch * traffic,
        energy,
        estimate_memory(costs, network, options, figures),
    )


def merge_choices(choices: NetworkChoices, members: Sequence[Ints]) -> NetworkChoices:
    """Return the choices of groups of units that share their cuts."""
    return NetworkChoices(
        choices.options,
        choices.tables.merge(members),
        np.stack([choices.traffic_bytes[group].sum(axis=0) for group in members]),
        np.stack([choices.energy_j[group].sum(axis=0) for group in members]),
        np.stack([choices.memory_bytes[group].max(axis=0) for group in members]),
    )


def relax_choices(choices: NetworkChoices, members: Sequence[Ints]) -> NetworkChoices:
    """Return the choices of groups whose members all do as well as the best in each figure."""

    def sum_best(figures: Floats) -> Floats:
        return np.stack([len(group) * figures[group].min(axis=0) for group in members])

    tables = choices.tables
    least = np.stack([tables.max_table[group].min(axis=0) for group in members])
    return NetworkChoices(
        choices.options,
        replace(tables, max_table=least, sum_table=sum_best(tables.sum_table)),
        sum_best(choices.traffic_bytes),
        sum_best(choices.energy_j),
        np.stack([choices.memory_bytes[group].min(axis=0) for group in members]),
    )
