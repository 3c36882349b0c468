"""What a step takes beside its passes: optimiser steps, and a share of rarer transfers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...split import CutPlan, RoundTraffic
from ..costs.block_costs import BlockCost
from ..devices.units import BITS_PER_BYTE, UnitFigures
from .model import is_held
from .stage_tables import Floats, Ints, Node, Stage

# Multiplications and additions of one Adam update of one parameter.
_ADAM_FLOPS_PER_PARAM = 13


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


def make_optimizer_step(blocks: Sequence[BlockCost], options: Ints, figures: UnitFigures) -> Stage:
    """Clients update what they hold while the server updates each block that it holds once."""
    work = list_updates(blocks)
    held = is_held(options, len(blocks))
    max_terms = {"clients": held @ work / figures.speed_flops_per_s}
    ones = np.ones_like(figures.batch)
    for place in np.flatnonzero(~held.all(axis=0)):
        max_terms[f"block{place}"] = (
            ones * ~held[:, place] * work[place] / figures.server.speed_flops_per_s
        )
    server = tuple(name for name in max_terms if name != "clients")
    ways = (("clients",), server) if server else (("clients",),)
    nodes: tuple[Node, ...] = (("seconds", ways),)
    return Stage("optimizer", max_terms, {"none": 0 * max_terms["clients"]}, nodes)


def make_federation(
    blocks: Sequence[BlockCost],
    options: Ints,
    figures: UnitFigures,
    num_steps: int,
    traffic: RoundTraffic,
) -> Stage:
    """What a round's end sends, such as every client's parameters, once in so many steps."""
    ones = np.ones((len(figures.units), 1))
    up, down = (ones * each for each in count_round_bytes(blocks, options, traffic))
    return _make_transfer("federation", up, down, figures, num_steps)


def list_updates(blocks: Sequence[BlockCost]) -> Floats:
    """Return the (blocks,) FLOPs of one optimiser step of each block."""
    return np.array([float(block.num_params * _ADAM_FLOPS_PER_PARAM) for block in blocks])


def count_round_bytes(
    blocks: Sequence[BlockCost], options: Ints, traffic: RoundTraffic
) -> tuple[Floats, Floats]:
    """Return the (options,) bytes that one client sends, and gets, at a round's end."""
    sizes = np.array([block.param_bytes for block in blocks], dtype=np.float64)
    held: Floats = is_held(options, len(blocks)) @ sizes
    return held * traffic.goes_up, held * traffic.comes_down + traffic.other_down_bytes


def make_moving(
    network: str,
    blocks: Sequence[BlockCost],
    options: Ints,
    figures: UnitFigures,
    move: Move,
) -> Stage:
    """Blocks change hands once, and stay for so many steps."""
    up, down = _count_moved_bytes(network, blocks, options, figures, move)
    return _make_transfer("moving", up, down, figures, move.num_steps)


def _make_transfer(
    name: str, up_bytes: Floats, down_bytes: Floats, figures: UnitFigures, num_steps: int
) -> Stage:
    """All clients send, then all receive; each at its own rate, all over the server's link."""
    bits, server = BITS_PER_BYTE, figures.server
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
        repeats=1 / num_steps,
    )


def _count_moved_bytes(
    network: str,
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
    will_hold = is_held(options, len(blocks))
    up = np.zeros((len(figures.units), len(options)))
    down = np.zeros_like(up)
    for row, unit in enumerate(figures.units):
        entry = move.running.by_client.get(unit.client_ids[0])
        if entry is None:
            continue
        holds = ~np.isin(places, entry.cuts.server_range(network, len(blocks)))
        # The federation has just left the client's parameters with the server, which goes on with
        # its own copy and moments of a block if it has one.
        up[row] = (holds & ~will_hold & is_missing) @ moments
        down[row] = (~holds & will_hold) @ (sizes + moments)
    return up, down
