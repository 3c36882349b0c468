"""What a step costs one client beside time: traffic, work, energy and memory."""

import numpy as np

from ..costs.plan_costs import PlanCosts, list_flops, list_sizes
from ..devices.units import UnitFigures
from ..latency.model import is_held
from ..latency.stage_tables import Floats, Ints


def count_traffic(costs: PlanCosts, network: str, options: Ints) -> Floats:
    """Return the (options,) bytes per sample that cross one client's cuts in a step.

    Each pass, whatever its direction, crosses the head's cut and the tail's once, unless the
    client holds all or the server has drawn what enters.
    """
    head, last = options[:, 0], len(costs.blocks[network]) - options[:, 1]
    total = np.zeros(len(options))
    for one in costs.list_passes(network):
        entering = 0.0 if one.is_drawn else costs.input_bytes.get(network, 0.0)
        sizes = np.append(entering, list_sizes(costs.blocks[network]))
        total += one.count * (head < last) * (sizes[head] + sizes[last])
    return total


def count_client_work(costs: PlanCosts, network: str, options: Ints) -> Floats:
    """Return the (options,) FLOPs per sample of one client's blocks in a step."""
    blocks, passes = costs.blocks[network], costs.list_passes(network)
    work = np.sum([one.count * list_flops(blocks, one.kind) for one in passes], axis=0)
    return work @ is_held(options, len(blocks)).T


def estimate_energy(traffic: Floats, work: Floats, figures: UnitFigures) -> Floats:
    """Return the (units, options) joules of one client: power while computing or transmitting.

    Args:
        traffic: (options,) bytes per sample, half of them in each direction.
        work: (options,) FLOPs per sample.
        figures: The devices, of which all have a power.
    """
    power = np.array([[unit.profile.power_w] for unit in figures.units], dtype=np.float64)
    half_bits = 4 * traffic
    link = half_bits / figures.uplink_bits_per_s + half_bits / figures.downlink_bits_per_s
    return power * figures.batch * (work / figures.speed_flops_per_s + link)


def estimate_memory(costs: PlanCosts, network: str, options: Ints, figures: UnitFigures) -> Floats:
    """Return the (units, options) bytes that training takes on one client.

    Parameters, gradients and two Adam moments of what it holds; what autograd keeps of the
    batches that are alive together; and the activations received with them.
    """
    blocks = costs.blocks[network]
    held = is_held(options, len(blocks))
    params = held @ np.array([4.0 * block.param_bytes for block in blocks])
    saved = held @ np.array([block.saved_bytes for block in blocks])
    head, last = options[:, 0], len(blocks) - options[:, 1]
    received = (head < last) * list_sizes(blocks)[last - 1]
    batches = sum(one.kept for one in costs.list_passes(network) if one.kind == "forward")
    return params + batches * figures.batch * (saved + received)
