"""The released code's conventions for networks that are not cut, of which it knows none."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...split import Placement
from ..costs.plan_costs import PlanCosts, StepPass
from ..devices.units import UnitFigures
from ..latency.model import LatencyModel, list_cuts
from ..latency.stage_tables import Floats, Ints, Stage
from .costs import PaperBlockCost
from .latency import get_rates


def is_uncut(placement: Placement) -> bool:
    """Return whether a placement leaves a network whole, at the client or at the server."""
    return placement.max_server == 0 or placement.max_client == 0


class PaperUncutLatency(LatencyModel):
    """Seconds of a method whose networks lie whole at the clients or at the server.

    Pass by pass, as the method declares them, with the published model's habits: its costs, bytes
    divided by rates in bits, clients' own rates up and the server's down, and a discriminator that
    costs the server one pass however many a step has. Ours, for comparison: the paper says what
    other methods took, not how that was counted.

    Args:
        blocks: Work of every network's blocks by the released code's rules.
        costs: Passes, placements and what enters.
    """

    name = "paper"

    def __init__(self, blocks: Mapping[str, Sequence[PaperBlockCost]], costs: PlanCosts) -> None:
        self.blocks = dict(blocks)
        self.costs = costs

    def list_options(self, network: str, num_blocks: int) -> Ints:
        """Return the only pair of head and tail that the placement allows."""
        return list_cuts(self.costs.placements[network], num_blocks)

    def make_stages(self, network: str, options: Ints, figures: UnitFigures) -> Sequence[Stage]:
        """Return a stage for every kind of pass."""
        at_client = self.costs.placements[network].max_server == 0
        make = self._make_local if at_client else self._make_remote
        return [make(one, figures) for one in self.costs.list_passes(network)]

    def _count_work(self, one: StepPass) -> float:
        """Return the FLOPs of one sample; the released code knows one kind of way back."""
        blocks = self.blocks[one.network]
        if one.kind == "forward":
            return sum(block.forward_flops for block in blocks)
        return sum(block.backward_flops for block in blocks)

    def _make_local(self, one: StepPass, figures: UnitFigures) -> Stage:
        seconds = one.count * figures.batch * self._count_work(one) / figures.speed_flops_per_s
        return _make_stage(one.name, 0 * seconds, 0 * seconds, seconds)

    def _make_remote(self, one: StepPass, figures: UnitFigures) -> Stage:
        entering = 0.0 if one.is_drawn else self.costs.input_bytes.get(one.network, 0.0)
        leaving = self.blocks[one.network][-1].output_bytes
        up, down = (entering, leaving) if one.kind == "forward" else (leaving, entering)
        batch, server = one.count * figures.batch, figures.server
        runs = 1 if one.network == "discriminator" else one.count
        clients = figures.counts.sum()
        share = runs if one.num_drawn is None else one.num_drawn / clients
        work = share * figures.counts * figures.batch * self._count_work(one)
        return _make_stage(
            one.name,
            work / server.speed_flops_per_s,
            batch * up / get_rates(figures),
            batch * down / server.downlink_bits_per_s,
        )


def _make_stage(name: str, queue: Floats, up: Floats, down: Floats) -> Stage:
    """Return a stage of one option: up, the server's queue, down."""
    ones = np.ones((1, 1))
    terms = {"up": up * ones, "down": down * ones}
    nodes = (("seconds", (("up", "queue", "down"),)),)
    return Stage(name, terms, {"queue": queue * ones}, nodes)
