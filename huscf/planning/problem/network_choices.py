"""The options of one network, and what each would cost each unit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..costs.plan_costs import PlanCosts
from ..devices.units import UnitFigures
from ..latency.model import LatencyModel
from ..latency.stage_tables import Floats, Ints, StageTables, stack_stages
from .constraints import Constraints, Objective
from .usage import count_client_work, count_traffic, estimate_energy, estimate_memory


@dataclass(frozen=True)
class NetworkChoices:
    """The options of one network and what each costs each unit.

    Args:
        network: Name of the network.
        num_blocks: Number of its blocks.
        options: (options, 2) head and tail blocks.
        tables: Seconds.
        traffic_bytes: (units, options), of all the unit's clients in a step.
        energy_j: (units, options), of all the unit's clients in a step; 0 without power figures.
        memory_bytes: (units, options), of one client.
        leakage: (units, options), the cut's share of the samples' variance times the unit's share
            of all clients; 0 where nobody has measured it.
    """

    network: str
    num_blocks: int
    options: Ints
    tables: StageTables
    traffic_bytes: Floats
    energy_j: Floats
    memory_bytes: Floats
    leakage: Floats

    def weigh(self, goal: Objective) -> Floats:
        """Return the (units, options) share of all but the latency in the objective."""
        return (
            goal.bytes_weight * self.traffic_bytes
            + goal.energy_weight * self.energy_j
            + goal.leakage_weight * self.leakage
        )


def make_choices(
    network: str,
    costs: PlanCosts,
    model: LatencyModel,
    constraints: Constraints,
    figures: UnitFigures,
) -> NetworkChoices:
    """Tabulate what every allowed option of one network costs every unit.

    Raises:
        PlanError: Where the constraints leave no option.
    """
    num_blocks = len(costs.blocks[network])
    known = model.list_options(network, num_blocks)
    options = constraints.filter_options(network, known, costs.leakage)
    share = costs.leakage.of_options(network, options) if costs.leakage else np.zeros(len(options))
    traffic = count_traffic(costs, network, options)
    energy = np.zeros((len(figures.units), len(options)))
    if all(unit.profile.power_w is not None for unit in figures.units):
        work = count_client_work(costs, network, options)
        energy = figures.counts * estimate_energy(traffic, work, figures)
    return NetworkChoices(
        network,
        num_blocks,
        options,
        stack_stages(model.make_stages(network, options, figures)),
        figures.counts * figures.batch * traffic,
        energy,
        estimate_memory(costs, network, options, figures),
        figures.counts / figures.counts.sum() * share,
    )


def merge_choices(choices: NetworkChoices, members: Sequence[Ints]) -> NetworkChoices:
    """Return the choices of groups of units that share their cuts."""
    return replace(
        choices,
        tables=choices.tables.merge(members),
        traffic_bytes=np.stack([choices.traffic_bytes[group].sum(axis=0) for group in members]),
        energy_j=np.stack([choices.energy_j[group].sum(axis=0) for group in members]),
        memory_bytes=np.stack([choices.memory_bytes[group].max(axis=0) for group in members]),
        leakage=np.stack([choices.leakage[group].sum(axis=0) for group in members]),
    )


def relax_choices(choices: NetworkChoices, members: Sequence[Ints]) -> NetworkChoices:
    """Return the choices of groups whose members all do as well as the best in each figure."""

    def sum_best(figures: Floats) -> Floats:
        return np.stack([len(group) * figures[group].min(axis=0) for group in members])

    tables = choices.tables
    least = np.stack([tables.max_table[group].min(axis=0) for group in members])
    return replace(
        choices,
        tables=replace(tables, max_table=least, sum_table=sum_best(tables.sum_table)),
        traffic_bytes=sum_best(choices.traffic_bytes),
        energy_j=sum_best(choices.energy_j),
        memory_bytes=np.stack([choices.memory_bytes[group].min(axis=0) for group in members]),
        leakage=sum_best(choices.leakage),
    )
