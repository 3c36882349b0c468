"""The default latency model: clients and server as queues in every pass of a step.

One pass through blocks 1..m, counted in the order of the pass. Client i has n_i samples, speed C_i
(FLOP/s), rates u_i up and d_i down (bit/s) and round trip rho_i; it holds blocks 1..h_i and
m-t_i+1..m. The server has speed C_S, and B_in and B_out are the rates of its link, which all share.
Block l takes q_l FLOPs a sample; s_l bytes a sample leave it.

    A_i = n_i sum_{l<=h_i} q_l / C_i + 8 n_i s_{h_i} / u_i + rho_i / 2         i is at the server
    E_j = max(E_{j-1}, max_{h_i=j-1} A_i, sum_{h_i<j} 8 n_i s_{h_i} / B_in)    block j is done
          + q_j sum_{h_i<j<=m-t_i} n_i / C_S
    L_j = max(L_{j-1}, E_j) + sum_{m-t_i=j} 8 n_i s_j / B_out                  its results are sent
    R_i = max(E_j + 8 n_i s_j / d_i, L_j) + rho_i / 2                          i is done, j = m-t_i
          + n_i sum_{l>j} q_l / C_i
    T_pass = max_i R_i

A backward pass is the same chain mirrored: h and t change places, q and s run in reverse. Every
pass waits for the one before (a barrier), so that a step takes

    T_step = sum over its passes of count * T_pass + optimiser steps

which for generator G and discriminator D, with F, B and I the forward, the backward and the
input-only backward pass, is F_G + 3 F_D + 2 B_D + I_D + B_G + optimiser steps (`count_passes`).
A client without a head sends what enters the network (h = 0, s_0). Where the server draws it, once
for all clients that get a batch, A_i = 0, and the way back ends at the server. A client without a
tail gets the output (s_m). One that holds all takes R_i = n_i sum_l q_l / C_i, or, shared out over
a chain of its user's devices, the sum over these and what they send each other (`Chain`).
Where they are asked for, a share of the federation and of moving blocks is added (`overheads.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...split import Placement, RoundTraffic
from ..costs.block_costs import BlockCost
from ..costs.plan_costs import PlanCosts, StepPass, list_flops, list_sizes
from ..devices.units import BITS_PER_BYTE, UnitFigures
from .model import LatencyModel, list_cuts
from .overheads import Move, make_federation, make_moving, make_optimizer_step
from .stage_tables import Floats, Ints, Node, Stage
from .ways import orient


@dataclass(frozen=True)
class CorrectedLatency(LatencyModel):
    """Clients and server as queues in each pass, with a barrier behind every pass.

    Source: ours; the formula stands at the top of this file, and what the paper's gets wrong in
        docs/planning.md (latency models).

    Args:
        costs: Measured costs, and the passes of a step.
        steps_per_round: Steps between two federations; 0 leaves the federation out.
        move: Count the cost of leaving a running plan; None counts none.
    """

    name = "corrected"
    costs: PlanCosts
    steps_per_round: int = 0
    move: Move | None = None

    def list_options(self, network: str, num_blocks: int) -> Ints:
        """Return the pairs of head and tail blocks that the method allows."""
        return list_cuts(self.costs.placements.get(network, Placement()), num_blocks)

    def make_stages(self, network: str, options: Ints, figures: UnitFigures) -> Sequence[Stage]:
        """Return the passes, the optimiser step, and what is spread over many steps."""
        blocks = self.costs.blocks[network]
        passes = self.costs.list_passes(network)
        entering = self.costs.input_bytes.get(network, 0.0)
        stages = [_make_pass(one, blocks, entering, options, figures) for one in passes]
        stages.append(make_optimizer_step(blocks, options, figures))
        if self.steps_per_round:
            traffic = self.costs.rounds.get(network, RoundTraffic())
            steps = self.steps_per_round
            stages.append(make_federation(blocks, options, figures, steps, traffic))
        if self.move is not None:
            stages.append(make_moving(network, blocks, options, figures, self.move))
        return stages


def _make_pass(
    one: StepPass,
    blocks: Sequence[BlockCost],
    entering: float,
    options: Ints,
    figures: UnitFigures,
) -> Stage:
    """Return the formula for (options, 2) cuts: maxima and sums over units, then E and L."""
    way, m = orient(one, blocks, entering, options, figures), len(blocks)
    q, s, head, last = way.flops, way.sizes, way.head, way.last
    is_split = head < last
    n, speed, server = figures.batch, figures.speed_flops_per_s, figures.server
    work = np.concatenate([[0.0], np.cumsum(q)])  # of the first 0, 1, ..., m blocks
    bits_up, bits_down = BITS_PER_BYTE * s[head], BITS_PER_BYTE * s[last]
    arrival_s = (  # A
        n * work[head] / speed + n * bits_up / figures.uplink_bits_per_s + way.half_up_s
    )
    after_link_s = way.half_down_s + n * (work[m] - work[last]) / speed  # R - L
    after_work_s = after_link_s + n * bits_down / figures.downlink_bits_per_s  # R - E
    crowd = figures.counts * n
    share = 1.0 if one.num_drawn is None else one.num_drawn / (one.count * figures.counts.sum())
    max_terms: dict[str, Floats] = {}
    sum_terms: dict[str, Floats] = {}
    nodes: list[Node] = []
    served = range(int(head.min()) + 1, int(last.max()) + 1)
    for j in served:
        max_terms[f"A{j}"] = arrival_s * (is_split & (head == j - 1))
        max_terms[f"R-E{j}"] = after_work_s * (is_split & (last == j))
        max_terms[f"R-L{j}"] = after_link_s * (is_split & (last == j))
        arrived = is_split & (head < j)
        sum_terms[f"in{j}"] = crowd * bits_up * arrived / server.uplink_bits_per_s
        present = (head < j) & (j <= last)
        sum_terms[f"work{j}"] = share * crowd * present * q[j - 1] / server.speed_flops_per_s
        sum_terms[f"out{j}"] = (
            crowd * bits_down * (is_split & (last == j)) / (server.downlink_bits_per_s)
        )
        nodes += _make_queue(j, is_first=j == served.start)
    is_whole = not is_split.all()
    if is_whole:
        at_home = list_flops(blocks, one.kind), list_flops(blocks, "forward"), list_sizes(blocks)
        max_terms["whole"] = figures.compute_s(*at_home) * ~is_split
    return Stage(one.name, max_terms, sum_terms, (*nodes, _make_end(served, is_whole)), one.count)


def _make_queue(j: int, is_first: bool) -> list[Node]:
    """Return E and L of block j.

    Where nobody joins at the block the input queue has not grown, and where nobody leaves there is
    nothing to send: the recursion needs no case for either, as E does not fall from block to block.
    """
    ready = [(f"A{j}", f"work{j}"), (f"in{j}", f"work{j}")]
    sent = [(f"E{j}", f"out{j}")]
    if not is_first:
        ready.append((f"E{j - 1}", f"work{j}"))
        sent.append((f"L{j - 1}", f"out{j}"))
    return [(f"E{j}", tuple(ready)), (f"L{j}", tuple(sent))]


def _make_end(served: range, is_whole: bool) -> Node:
    """Return the moment when the last client is done, the largest R.

    E and L do not fall from block to block, and somebody leaves behind the last busy one, so that
    blocks behind which nobody leaves add nothing.
    """
    by_device = [(f"E{j}", f"R-E{j}") for j in served]
    by_link = [(f"L{j}", f"R-L{j}") for j in served]
    return ("seconds", (*by_device, *by_link, *([("whole",)] if is_whole else [])))
