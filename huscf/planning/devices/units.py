"""Clients alike in device and batch size, and their figures as columns for arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .profiles import DeviceProfile, ServerProfile

BITS_PER_BYTE = 8

# One figure per unit, (units, 1).
Column = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """Clients with the same device and batch size, which share their cuts in a search.

    Args:
        profile: Their device.
        batch_size: Samples per step of each.
        client_ids: The clients, ascending.
    """

    profile: DeviceProfile
    batch_size: int
    client_ids: tuple[int, ...]


@dataclass(frozen=True)
class UnitFigures:
    """The figures of all units as columns (units, 1), ready for arithmetic with options.

    Args:
        units: The units.
        server: The server, whose rates bound every single client's.
    """

    units: tuple[Unit, ...]
    server: ServerProfile

    @cached_property
    def counts(self) -> Column:
        """Clients of each unit."""
        return _column([len(unit.client_ids) for unit in self.units])

    @cached_property
    def batch(self) -> Column:
        """Samples per step of one client."""
        return _column([unit.batch_size for unit in self.units])

    @cached_property
    def speed_flops_per_s(self) -> Column:
        """Speed of one client."""
        return _column([unit.profile.speed_flops_per_s for unit in self.units])

    @cached_property
    def uplink_bits_per_s(self) -> Column:
        """Rate to the server, at the slower of the two ends."""
        rates = _column([unit.profile.uplink_bits_per_s for unit in self.units])
        return np.minimum(rates, self.server.uplink_bits_per_s)

    @cached_property
    def downlink_bits_per_s(self) -> Column:
        """Rate from the server, at the slower of the two ends."""
        rates = _column([unit.profile.downlink_bits_per_s for unit in self.units])
        return np.minimum(rates, self.server.downlink_bits_per_s)

    def compute_s(self, flops: Column, work: Column, num_bytes: Column) -> Column:
        """Return the seconds of one client's pass through a network that it holds whole.

        Args:
            flops: (blocks,) of a sample's pass, in forward order.
            work: (blocks,) by which devices of a chain share it out, the same for all passes.
            num_bytes: (blocks,) of a sample that leave each block.
        """
        seconds = self.batch * flops.sum() / self.speed_flops_per_s
        for row, unit in enumerate(self.units):
            if (chain := unit.profile.chain) is not None:
                holders = chain.share_out(work.tolist())
                one = chain.count_seconds(holders, flops, num_bytes.tolist())
                seconds[row] = unit.batch_size * one
        return seconds

    @cached_property
    def half_trip_s(self) -> Column:
        """Delay of one message one way."""
        return _column([unit.profile.round_trip_s / 2 for unit in self.units])


def _column(values: Sequence[float]) -> Column:
    return np.array(values, dtype=np.float64)[:, None]
