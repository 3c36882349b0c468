"""What a plan must respect, and what it is to be good at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..split import NETWORK_NAMES, ClientCuts, NetworkName
from .block_costs import PlanCosts
from .latency import UnitFigures, get_block_costs
from .stage_tables import Floats, Ints

CUT_NAMES = tuple(entry.name for entry in fields(ClientCuts))


@dataclass(frozen=True)
class Constraints:
    """Hard limits; a device's memory is one as well and needs no entry here.

    Args:
        min_generator_head: Blocks of the generator that every client keeps at the input, >= 1.
        min_discriminator_head: The same for the discriminator: a floor for privacy, as the
            activations of deeper blocks give away less of a sample.
        forbidden_cuts: Cut name (generator_head, generator_tail, discriminator_head,
            discriminator_tail) -> block counts that no client may hold there.
        max_latency_s: Upper limit, or None.
        max_bytes_per_step: Upper limit of all clients' traffic in a step, or None.
        max_energy_j: Upper limit of all clients' energy in a step, or None.
        common_boundary: Whether one boundary between two blocks of the discriminator must be at
            the server for all clients, as cluster rules need that compare what clients send.
    """

    min_generator_head: int = 1
    min_discriminator_head: int = 1
    forbidden_cuts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    max_latency_s: float | None = None
    max_bytes_per_step: float | None = None
    max_energy_j: float | None = None
    common_boundary: bool = False

    def __post_init__(self) -> None:
        for name, counts in self.forbidden_cuts.items():
            if name not in CUT_NAMES:
                raise PlanError(
                    f"forbidden_cuts: unknown cut {name}; known: {', '.join(CUT_NAMES)}"
                )
            for count in counts:
                if type(count) is not int or count < 1:
                    raise PlanError(
                        f"forbidden_cuts: {name}: {count!r} is no whole number of blocks >= 1"
                    )
        for name in ("min_generator_head", "min_discriminator_head"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is {getattr(self, name)}, must be >= 1")
        for name in ("max_latency_s", "max_bytes_per_step", "max_energy_j"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise PlanError(f"{name} is {limit}, must be > 0")

    @property
    def has_limits(self) -> bool:
        """Return whether latency, traffic or energy is limited."""
        limits = (self.max_latency_s, self.max_bytes_per_step, self.max_energy_j)
        return any(limit is not None for limit in limits)

    def filter_options(self, network: NetworkName, options: Ints) -> Ints:
        """Return the (options, 2) head and tail counts that are allowed.

        Raises:
            PlanError: Where nothing is left.
        """
        floor = getattr(self, f"min_{network}_head")
        allowed = options[:, 0] >= floor
        for side, end in enumerate(("head", "tail")):
            forbidden = list(self.forbidden_cuts.get(f"{network}_{end}", ()))
            allowed &= ~np.isin(options[:, side], forbidden)
        if not allowed.any():
            raise PlanError(
                f"min_{network}_head {floor} and forbidden_cuts leave no cut of the {network}"
            )
        return options[allowed]


@dataclass(frozen=True)
class Objective:
    """Weighted sum that a search makes small; the default is latency alone.

    Args:
        latency_weight: Per second of a step.
        bytes_weight: Per byte of all clients' traffic in a step.
        energy_weight: Per joule of all clients in a step; needs power_w in every profile.
    """

    latency_weight: float = 1.0
    bytes_weight: float = 0.0
    energy_weight: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.latency_weight, self.bytes_weight, self.energy_weight)
        if min(weights) < 0 or not max(weights) > 0:
            raise PlanError(f"objective weights are {weights}; need >= 0 and one of them > 0")

    @property
    def is_latency(self) -> bool:
        """Return whether only latency counts."""
        return not self.bytes_weight and not self.energy_weight


def count_traffic(costs: PlanCosts, network: NetworkName, options: Ints) -> Floats:
    """Return the (options,) bytes per sample that cross one client's cuts in a step.

    The generator's activations cross once forward and once backward; the discriminator's with
    every batch that it is trained on, and once more for the generator.
    """
    sizes = np.array([block.output_bytes for block in get_block_costs(costs, network)])
    crossings = 2 if network == NETWORK_NAMES[0] else 2 * (costs.discriminator_batches + 1)
    per_pass: Floats = sizes[options[:, 0] - 1] + sizes[len(sizes) - options[:, 1] - 1]
    return crossings * per_pass


def count_client_work(costs: PlanCosts, network: NetworkName, options: Ints) -> Floats:
    """Return the (options,) FLOPs per sample of one client's blocks in a step."""
    blocks = get_block_costs(costs, network)
    forward = np.array([block.forward_flops for block in blocks])
    full = np.array([block.backward_flops for block in blocks])
    full[0] = blocks[0].parameter_gradient_flops
    if network == NETWORK_NAMES[0]:
        work = forward + full
    else:
        by_input = np.array([block.input_gradient_flops for block in blocks])
        trained = costs.discriminator_batches
        work = (trained + 1) * forward + trained * full + by_input
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


def estimate_memory(
    costs: PlanCosts, network: NetworkName, options: Ints, figures: UnitFigures
) -> Floats:
    """Return the (units, options) bytes that training takes on one client.

    Parameters, gradients and two Adam moments of what it holds; what autograd keeps of one
    generator batch and of a real and a fake discriminator batch; and the activations received.
    """
    blocks = get_block_costs(costs, network)
    held = is_held(options, len(blocks))
    params = held @ np.array([4.0 * block.param_bytes for block in blocks])
    saved = held @ np.array([block.saved_bytes for block in blocks])
    sizes = np.array([block.output_bytes for block in blocks])
    received = sizes[len(blocks) - options[:, 1] - 1]
    batches = 1 if network == NETWORK_NAMES[0] else 2
    return params + batches * figures.batch * (saved + received)


def is_held(options: Ints, num_blocks: int) -> NDArray[np.bool_]:
    """Return the (options, blocks) mask of what a client holds."""
    places = np.arange(num_blocks)
    mask: Any = (places < options[:, :1]) | (places >= num_blocks - options[:, 1:])
    return mask
