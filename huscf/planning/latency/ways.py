"""A pass through a network in its own direction, whichever that is, as all formulas see it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...split import TracedPass
from ..costs.block_costs import BlockCost
from ..costs.plan_costs import StepPass, list_flops, list_sizes
from ..devices.units import UnitFigures
from .stage_tables import Floats, Ints


@dataclass(frozen=True)
class Way:
    """Blocks 1..m in the order of the pass: a client's, the server's, the client's again.

    Args:
        flops: (m,) of a sample in each block.
        sizes: (m + 1,) bytes of a sample before block 1, 2, ... and behind the last.
        head: (options,) blocks that the client runs first.
        last: (options,) the server's last block; where it is the head, the client holds all.
        half_up_s: (units, 1) delay of what goes up.
        half_down_s: (units, 1) delay of what comes down.
    """

    flops: Floats
    sizes: Floats
    head: Ints
    last: Ints
    half_up_s: Floats
    half_down_s: Floats


def orient(
    one: StepPass | TracedPass,
    blocks: Sequence[BlockCost],
    entering: float,
    options: Ints,
    figures: UnitFigures,
) -> Way:
    """Return the way of a pass.

    A way back is mirrored: over each boundary goes what the forward pass sent, the other way.
    Where the server draws, nothing goes up first, and nothing comes down last.

    Args:
        one: The pass.
        blocks: Of its network, in forward order.
        entering: Bytes of a sample that enter the network.
        options: (options, 2) head and tail blocks of the client.
        figures: The devices.
    """
    flops = list_flops(blocks, one.kind)
    sizes = np.append(0.0 if one.is_drawn else entering, list_sizes(blocks))
    head, tail = options.T
    is_forward = one.kind == "forward"
    if not is_forward:
        head, tail, flops, sizes = tail, head, flops[::-1], sizes[::-1]
    return Way(
        flops,
        sizes,
        head,
        len(blocks) - tail,
        figures.half_trip_s * (not (one.is_drawn and is_forward)),
        figures.half_trip_s * (not (one.is_drawn and not is_forward)),
    )
