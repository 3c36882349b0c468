"""The default latency model: bits, shared links, every pass charged to who computes it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..split import CutPlan, NetworkName
from .block_costs import BlockCost, PlanCosts
from .latency import LatencyModel, UnitFigures, get_block_costs
from .stage_tables import Floats, Ints, Node, Stage

# Multiplications and additions of one Adam update of one parameter.
_ADAM_FLOPS_PER_PARAM = 13
_BITS_PER_BYTE = 8


@dataclass(frozen=True)
class Move:
    """The running plan, for a model that counts the cost of leaving it.

    Args:
        running: The running plan; clients that it does not name move at no cost.
        num_steps: Steps over which the cost is spread, at least 1.
        keeps_moments: Whether the optimiser's two moments move with a block.
    """

    running: CutPlan
    num_steps: int
    keeps_moments: bool = True


@dataclass(frozen=True)
class _Pass:
    """One pass through a network, with what lies where in the order of the pass."""

    name: str
    flops: Floats  # (blocks,) per sample, in the order of the pass
    sizes: Floats  # (blocks,) bytes per sample behind each block, in the order of the pass
    repeats: int
    is_backward: bool


class CorrectedLatency(LatencyModel):
    """Clients and server as queues in each pass, with a barrier behind every pass.

    A step is a generator forward pass, a discriminator forward and full backward pass of every
    batch that it is trained on, one more of the generator's phase whose backward pass goes to the
    input only, a generator backward pass, and both optimiser steps; the federation's traffic is
    spread over the steps of a round.

    Source: design, section 4 (A, E, L, R are its symbols).

    Args:
        costs: Measured costs of both networks.
        steps_per_round: Steps between two federations; 0 leaves the federation out.
        move: Count the cost of leaving a running plan; None counts none.
    """

    name = "corrected"

    def __init__(
        self, costs: PlanCosts, steps_per_round: int = 0, move: Move | None = None
    ) -> None:
        self.costs = costs
        self.steps_per_round = steps_per_round
        self.move = move

    def make_stages(
        self, network: NetworkName, options: Ints, figures: UnitFigures
    ) -> Sequence[Stage]:
        """Return the passes, the optimiser step, and what is spread over many steps."""
        blocks = get_block_costs(self.costs, network)
        passes = _list_passes(network, blocks, self.costs.discriminator_batches)
        stages = [_make_pass(p, options, figures) for p in passes]
        stages.append(_make_optimizer_step(blocks, options, figures))
        held = _sum_ends(np.array([block.param_bytes for block in blocks]), options)
        if self.steps_per_round:
            traffic = held * np.ones((len(figures.units), 1))
            stages.append(_make_transfer("federation", traffic, traffic, figures))
            stages[-1] = _spread(stages[-1], self.steps_per_round)
        if self.move is not None:
            up, down = _count_moved_bytes(network, blocks, options, figures, self.move)
            stage = _make_transfer("moving", up, down, figures)
            stages.append(_spread(stage, self.move.num_steps))
        return stages


def _list_passes(
    network: NetworkName, blocks: Sequence[BlockCost], discriminator_batches: int
) -> list[_Pass]:
    forward = np.array([block.forward_flops for block in blocks])
    by_input = np.array([block.input_gradient_flops for block in blocks])
    full = np.array([block.backward_flops for block in blocks])
    # Nobody asks for the gradient of noise or real samples.
    full[0] = blocks[0].parameter_gradient_flops
    sizes = np.array([block.output_bytes for block in blocks])
    # A backward pass carries over each boundary what the forward pass did, the other way.
    reverse = np.append(sizes[:-1][::-1], 0.0)
    if network == "generator":
        return [
            _Pass("generator_forward", forward, sizes, 1, False),
            _Pass("generator_backward", full[::-1], reverse, 1, True),
        ]
    return [
        _Pass("discriminator_forward", forward, sizes, discriminator_batches + 1, False),
        _Pass("discriminator_backward", full[::-1], reverse, discriminator_batches, True),
        _Pass("discriminator_input_backward", by_input[::-1], reverse, 1, True),
    ]


def _make_pass(one: _Pass, options: Ints, figures: UnitFigures) -> Stage:
    num_blocks = len(one.flops)
    first, last = options[:, int(one.is_backward)], options[:, int(not one.is_backward)]
    batch, server = figures.batch, figures.server
    work = np.concatenate([[0.0], np.cumsum(one.flops)])
    leaves = num_blocks - last  # the server's last block, in the order of the pass
    bits = {
        "in": _BITS_PER_BYTE * one.sizes[first - 1],
        "out": _BITS_PER_BYTE * one.sizes[leaves - 1],
    }
    arrival = (
        batch * work[first] / figures.speed_flops_per_s
        + batch * bits["in"] / figures.uplink_bits_per_s
        + figures.half_trip_s
    )
    local = figures.half_trip_s + batch * (work[-1] - work[leaves]) / figures.speed_flops_per_s
    received = local + batch * bits["out"] / figures.downlink_bits_per_s
    crowd = figures.counts * batch
    max_terms: dict[str, Floats] = {}
    sum_terms: dict[str, Floats] = {}
    nodes: list[Node] = []
    for block in range(2, num_blocks):
        joins, stays, ends = (
            first == block - 1,
            (first < block) & (block <= leaves),
            leaves == block,
        )
        max_terms[f"A{block}"] = arrival * joins
        max_terms[f"R{block}"] = received * ends
        max_terms[f"S{block}"] = local * ends
        sum_terms[f"in{block}"] = crowd * bits["in"] * (first < block) / server.uplink_bits_per_s
        sum_terms[f"q{block}"] = crowd * stays * one.flops[block - 1] / server.speed_flops_per_s
        sum_terms[f"out{block}"] = crowd * bits["out"] * ends / server.downlink_bits_per_s
        nodes += _make_queue(block)
    return Stage(
        one.name, max_terms, sum_terms, (*nodes, _make_end(range(2, num_blocks))), one.repeats
    )


def _make_queue(block: int) -> list[Node]:
    """Return E (server done with the block) and L (its link has sent what leaves behind it).

    The conditions "if somebody joins" and "if somebody leaves" may be dropped: without a joining
    client the input queue has not grown, and E does not fall from block to block.
    """
    work = f"q{block}"
    ready = [(f"A{block}", work), (f"in{block}", work)]
    sent = [(f"E{block}", f"out{block}")]
    if block > 2:
        ready.append((f"E{block - 1}", work))
        sent.append((f"L{block - 1}", f"out{block}"))
    return [(f"E{block}", tuple(ready)), (f"L{block}", tuple(sent))]


def _make_end(blocks: range) -> Node:
    """Return the moment when the last client is done.

    E and L do not fall from block to block, and somebody leaves behind the last busy one, so that
    blocks behind which nobody leaves add nothing.
    """
    by_device = [(f"E{block}", f"R{block}") for block in blocks]
    by_link = [(f"L{block}", f"S{block}") for block in blocks]
    return ("seconds", (*by_device, *by_link))


def _make_optimizer_step(blocks: Sequence[BlockCost], options: Ints, figures: UnitFigures) -> Stage:
    """Clients update what they hold while the server updates each block that it holds once."""
    work = np.array([block.num_params * _ADAM_FLOPS_PER_PARAM for block in blocks])
    max_terms = {"clients": _sum_ends(work, options) / figures.speed_flops_per_s}
    ones = np.ones_like(figures.batch)
    for place in range(1, len(blocks) - 1):
        is_servers = (options[:, 0] <= place) & (place < len(blocks) - options[:, 1])
        max_terms[f"block{place}"] = (
            ones * is_servers * work[place] / figures.server.speed_flops_per_s
        )
    server = tuple(name for name in max_terms if name != "clients")
    nodes: tuple[Node, ...] = (("seconds", (("clients",), server)),)
    return Stage("optimizer", max_terms, {"none": 0 * max_terms["clients"]}, nodes)


def _make_transfer(name: str, up_bytes: Floats, down_bytes: Floats, figures: UnitFigures) -> Stage:
    """All clients send, then all receive; each at its own rate, all over the server's link."""
    bits, server = _BITS_PER_BYTE, figures.server
    busy_up, busy_down = up_bytes > 0, down_bytes > 0
    return Stage(
        name,
        max_terms={
            "up": bits * up_bytes / figures.uplink_bits_per_s + figures.half_trip_s * busy_up,
            "down": bits * down_bytes / figures.downlink_bits_per_s
            + figures.half_trip_s * busy_down,
        },
        sum_terms={
            "all_up": figures.counts * bits * up_bytes / server.uplink_bits_per_s,
            "all_down": figures.counts * bits * down_bytes / server.downlink_bits_per_s,
        },
        nodes=(
            ("sent", (("up",), ("all_up",))),
            ("received", (("down",), ("all_down",))),
            ("seconds", (("sent", "received"),)),
        ),
    )


def _spread(stage: Stage, num_steps: int) -> Stage:
    return Stage(stage.name, stage.max_terms, stage.sum_terms, stage.nodes, 1 / num_steps)


def _count_moved_bytes(
    network: NetworkName,
    blocks: Sequence[BlockCost],
    options: Ints,
    figures: UnitFigures,
    move: Move,
) -> tuple[Floats, Floats]:
    """Return the (units, options) bytes up and down of one client that changes to an option."""
    sizes = np.array([block.param_bytes for block in blocks], dtype=np.float64)
    moments = 2 * sizes if move.keeps_moments else 0 * sizes
    places = np.arange(len(blocks))
    is_missing = ~np.isin(places, move.running.server_blocks(network))
    will_hold = (places < options[:, :1]) | (places >= len(blocks) - options[:, 1:])
    up = np.zeros((len(figures.units), len(options)))
    down = np.zeros_like(up)
    for row, unit in enumerate(figures.units):
        entry = move.running.by_client.get(unit.client_ids[0])
        if entry is None:
            continue
        served = entry.cuts.server_range(network, len(blocks))
        holds = np.array([place not in served for place in places])
        # The federation has just left the client's parameters with the server, which goes on with
        # its own copy and moments of a block if it has one.
        up[row] = (holds & ~will_hold & is_missing) @ moments
        down[row] = (~holds & will_hold) @ (sizes + moments)
    return up, down


def _sum_ends(values: Floats, options: Ints) -> Floats:
    """Return the (options,) sums of a per-block figure over the client's blocks."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return total[options[:, 0]] + total[-1] - total[len(values) - options[:, 1]]
