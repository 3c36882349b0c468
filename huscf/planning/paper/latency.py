"""The latency model of the released code, kept to reproduce its figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import PlanError
from ..devices.units import UnitFigures
from ..latency.model import LatencyModel
from ..latency.stage_tables import Floats, Ints, Stage
from .costs import PaperBlockCost, PaperCosts

_NUM_BLOCKS = 5


@dataclass(frozen=True)
class PaperTerms:
    """One network's terms that depend on one end's cut; (units, 1) seconds each.

    The end is the head (block 2 local or not) or the tail (block 4 local or not). "Near" is the
    stage in which the clients send first, "far" the stage that ends with them.

    Args:
        near_short: Client and link time where the optional block is the server's.
        near_long: The same where it is the client's.
        far_short: Client and link time of the far stage, without the queue.
        far_long: The same where the block is the client's.
        near_queue_s: Server time for the unit if it leaves the block to the server, near stage.
        far_queue_s: The same in the far stage.
    """

    near_short: Floats
    near_long: Floats
    far_short: Floats
    far_long: Floats
    near_queue_s: Floats
    far_queue_s: Floats


class PaperLatency(LatencyModel):
    """The released fitness: five blocks, of which 2 and 4 may be local. Not an honest clock.

    Source: the code released with arXiv:2507.12979. It divides bytes by the rate in bits, charges
    the three discriminator passes to the clients alone, and counts transposed convolutions
    fourfold.

    Args:
        costs: Work by the released code's own rules.

    Raises:
        PlanError: Where a network has not exactly five blocks.
    """

    name = "paper"

    def __init__(self, costs: PaperCosts) -> None:
        self.costs: dict[str, tuple[PaperBlockCost, ...]] = {
            "generator": costs.generator,
            "discriminator": costs.discriminator,
        }
        for network, blocks in self.costs.items():
            if len(blocks) != _NUM_BLOCKS:
                raise PlanError(
                    f"latency_model paper: needs networks of {_NUM_BLOCKS} blocks, the {network} "
                    f"has {len(blocks)}; use latency_model corrected"
                )

    def list_options(self, network: str, num_blocks: int) -> Ints:
        """Return the paper's four cuts."""
        return np.array([(1, 1), (1, 2), (2, 1), (2, 2)], dtype=np.int64)

    def make_stages(self, network: str, options: Ints, figures: UnitFigures) -> Sequence[Stage]:
        """Return the forward and the backward stage of one network."""
        head, tail = (self.make_terms(network, is_head, figures) for is_head in (True, False))
        middle = self.costs[network][2]
        per_sample = figures.counts * figures.batch / figures.server.speed_flops_per_s
        forward = _make_stage(
            f"{network}_forward", options, (head, tail), middle.forward_flops * per_sample, True
        )
        backward = _make_stage(
            f"{network}_backward", options, (tail, head), middle.backward_flops * per_sample, False
        )
        return [forward, backward]

    def make_terms(self, network: str, is_head: bool, figures: UnitFigures) -> PaperTerms:
        """Return the terms of one end of one network.

        Args:
            network: Which network.
            is_head: The head's cut, else the tail's.
            figures: The devices and the server.
        """
        blocks = self.costs[network]
        ordered = blocks if is_head else blocks[::-1]
        forward = [block.forward_flops for block in ordered[:2]]
        backward = [block.backward_flops for block in ordered[:2]]
        # Bytes at the boundary that the cut of 1 or 2 blocks makes.
        sizes = [block.output_bytes for block in (blocks[:2] if is_head else blocks[3:1:-1])]
        near, far = (forward, backward) if is_head else (backward, forward)
        # The released code runs the discriminator three times a step on clients and links.
        passes = 3 if network == "discriminator" else 1
        batch = passes * figures.batch
        server = figures.server
        speed, rate = figures.speed_flops_per_s, get_rates(figures)
        # Deviation: the released queue in the last backward stage is that of block 4, not of
        # block 2; the published figures contain the slip, so this model keeps it.
        slip = blocks[3].backward_flops if is_head else far[1]
        queue = figures.counts * figures.batch / server.speed_flops_per_s
        return PaperTerms(
            near_short=batch * (near[0] / speed + sizes[0] / rate),
            near_long=batch * (sum(near) / speed + sizes[1] / rate),
            far_short=batch * (sizes[0] / server.downlink_bits_per_s + far[0] / speed),
            far_long=batch * (sizes[1] / server.downlink_bits_per_s + sum(far) / speed),
            near_queue_s=near[1] * queue,
            far_queue_s=slip * queue,
        )


def _make_stage(
    name: str,
    options: Ints,
    terms: tuple[PaperTerms, PaperTerms],
    middle_s: Floats,
    is_forward: bool,
) -> Stage:
    near, far = terms
    sides = (options[:, 0], options[:, 1]) if is_forward else (options[:, 1], options[:, 0])
    near_is_long, far_is_long = sides[0] == 2, sides[1] == 2
    return Stage(
        name,
        max_terms={
            "near_short": near.near_short * ~near_is_long,
            "near_long": near.near_long * near_is_long,
            "far_short": far.far_short * ~far_is_long,
            "far_long": far.far_long * far_is_long,
        },
        sum_terms={
            "near_queue": near.near_queue_s * ~near_is_long,
            "middle": middle_s * np.ones(len(options)),
            "far_queue": far.far_queue_s * ~far_is_long,
        },
        nodes=(
            ("near", (("near_short", "near_queue"), ("near_long",))),
            ("far", (("far_short", "far_queue"), ("far_long",))),
            ("seconds", (("near", "middle", "far"),)),
        ),
    )


def get_rates(figures: UnitFigures) -> Floats:
    """Return the clients' own rates, which the released code does not bound by the server's."""
    return np.array([[unit.profile.uplink_bits_per_s] for unit in figures.units])
