"""What is planned for, declared once: every network's blocks, and the passes of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ...models import Carry
from ...split import PassKind, Placement, PlanRequest, RoundTraffic, TracedPhase
from .block_costs import BlockCost, measure_block_costs
from .leakage import Leakage


@dataclass(frozen=True)
class StepPass:
    """One kind of pass through one network, as often as a step runs it.

    Args:
        network: Name of the network.
        kind: "forward"; "backward" for the gradients of all parameters, without that of the
            network's input; "input_backward" for the gradient of the input, without parameters.
        count: How often a step runs it, each time with one batch.
        kept: Batches of a forward pass whose activations are kept at the same time.
        is_observed: Whether the server compares what clients send in it, for which one boundary
            must be at the server for all clients (`common_boundary`).
        is_drawn: Whether it begins at the server, so that forward nothing goes up before it and
            backward nothing comes down after it.
        num_drawn: Different batches of a drawn pass that the server computes, of all its runs
            together; None is one for every client and run.
    """

    network: str
    kind: PassKind
    count: int = 1
    kept: int = 1
    is_observed: bool = False
    is_drawn: bool = False
    num_drawn: int | None = None

    @property
    def name(self) -> str:
        """Return its name in the latency breakdown."""
        return f"{self.network}_{self.kind}"


@dataclass(frozen=True)
class PlanCosts:
    """The networks by name, each with its blocks in forward order, and what a step runs.

    Args:
        blocks: Network -> one entry per block, at least three.
        passes: All passes of a step, in their order.
        placements: Where the blocks of a network may lie; one that is missing has an end or more
            at the client on either side and a block or more at the server.
        input_bytes: Size per sample of what enters a network, which crosses where a client has no
            head.
        leakage: What cuts give away of the samples, or None where nobody has measured that.
        rounds: What a round's end sends of a network; of one that is missing, its blocks up and
            down.
        phases: The same passes one by one, in the order in which a client runs them.
    """

    blocks: Mapping[str, tuple[BlockCost, ...]]
    passes: tuple[StepPass, ...]
    placements: Mapping[str, Placement] = field(default_factory=dict)
    input_bytes: Mapping[str, float] = field(default_factory=dict)
    leakage: Leakage | None = None
    rounds: Mapping[str, RoundTraffic] = field(default_factory=dict)
    phases: tuple[TracedPhase, ...] = ()

    def list_passes(self, network: str) -> list[StepPass]:
        """Return the passes through one network."""
        return [one for one in self.passes if one.network == network]


def measure_plan_costs(request: PlanRequest, in_bf16: bool = False) -> PlanCosts:
    """Measure a request's networks at its largest batch size; nothing is changed.

    Args:
        request: The networks, on any device, and what enters them.
        in_bf16: See measure_block_costs.
    """
    batch_size = max(request.batch_sizes.values())
    blocks = {
        name: measure_block_costs(network, request.inputs[name], batch_size, in_bf16)
        for name, network in request.networks.items()
    }
    sizes = {name: _size(request.inputs[name]) for name in request.networks}
    passes, phases = count_passes(request.phases), tuple(request.phases)
    drawn = [replace(one, num_drawn=request.num_drawn if one.is_drawn else None) for one in passes]
    places, rounds = request.placements, request.rounds
    return PlanCosts(blocks, tuple(drawn), places, sizes, rounds=rounds, phases=phases)


def count_passes(phases: Sequence[TracedPhase]) -> tuple[StepPass, ...]:
    """Return a step's passes by network and kind: forward ones first, then the way back.

    A GAN's step is F_G + 3 F_D, then 2 B_D and the gradients of the fakes alone, then B_G.
    """
    traced = [item for phase in phases for item in phase.passes]
    networks = list(dict.fromkeys(item.network for item in traced))
    passes = []
    for network in networks:
        own = [item for item in traced if (item.network, item.kind) == (network, "forward")]
        is_observed = any(item.is_observed for item in own)
        is_drawn = all(item.is_drawn for item in own)
        # Two batches of a network that runs several: where loss and way back are one, fewer.
        kept = min(2, len(own))
        passes.append(StepPass(network, "forward", len(own), kept, is_observed, is_drawn))
    back: tuple[PassKind, ...] = ("backward", "input_backward")
    for network, kind in product(reversed(networks), back):
        own = [item for item in traced if (item.network, item.kind) == (network, kind)]
        if own:
            is_drawn = all(item.is_drawn for item in own)
            passes.append(StepPass(network, kind, len(own), is_drawn=is_drawn))
    return tuple(passes)


def list_flops(blocks: Sequence[BlockCost], kind: PassKind) -> NDArray[np.float64]:
    """Return the (blocks,) FLOPs per sample of one pass, in forward order."""
    if kind == "forward":
        return np.array([block.forward_flops for block in blocks])
    if kind == "input_backward":
        return np.array([block.input_gradient_flops for block in blocks])
    # Nobody asks for the gradient of noise or real samples.
    full = [block.backward_flops for block in blocks[1:]]
    return np.array([blocks[0].parameter_gradient_flops, *full])


def list_sizes(blocks: Sequence[BlockCost]) -> NDArray[np.float64]:
    """Return the (blocks,) bytes per sample that cross the boundary behind each block."""
    return np.array([block.output_bytes for block in blocks])


def _size(inputs: Carry) -> float:
    """Return the bytes of one sample of what enters."""
    return sum(tensor.nbytes / len(tensor) for tensor in inputs.values())
