"""The interface of the latency models, and the plan options that they choose among."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..split import NETWORK_NAMES, NetworkName
from .block_costs import BlockCost, PlanCosts
from .profiles import DeviceProfile, ServerProfile
from .stage_tables import Floats, Ints, Stage


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
    def counts(self) -> Floats:
        """Clients of each unit."""
        return _column([len(unit.client_ids) for unit in self.units])

    @cached_property
    def batch(self) -> Floats:
        """Samples per step of one client."""
        return _column([unit.batch_size for unit in self.units])

    @cached_property
    def speed_flops_per_s(self) -> Floats:
        """Speed of one client."""
        return _column([unit.profile.speed_flops_per_s for unit in self.units])

    @cached_property
    def uplink_bits_per_s(self) -> Floats:
        """Rate to the server, at the slower of the two ends."""
        rates = _column([unit.profile.uplink_bits_per_s for unit in self.units])
        return np.minimum(rates, self.server.uplink_bits_per_s)

    @cached_property
    def downlink_bits_per_s(self) -> Floats:
        """Rate from the server, at the slower of the two ends."""
        rates = _column([unit.profile.downlink_bits_per_s for unit in self.units])
        return np.minimum(rates, self.server.downlink_bits_per_s)

    @cached_property
    def half_trip_s(self) -> Floats:
        """Delay of one message one way."""
        return _column([unit.profile.round_trip_s / 2 for unit in self.units])


class LatencyModel(ABC):
    """Predicts the seconds of one step of a plan, stage by stage."""

    name: str

    def list_options(self, network: NetworkName, num_blocks: int) -> Ints:
        """Return the (options, 2) pairs of head and tail blocks that the model knows."""
        pairs = [
            (head, tail)
            for head in range(1, num_blocks - 1)
            for tail in range(1, num_blocks - head)
        ]
        return np.array(pairs, dtype=np.int64)

    @abstractmethod
    def make_stages(
        self, network: NetworkName, options: Ints, figures: UnitFigures
    ) -> Sequence[Stage]:
        """Return the stages of one network.

        Args:
            network: Which network.
            options: (options, 2) head and tail blocks.
            figures: The devices and the server.
        """


def get_block_costs(costs: PlanCosts, network: NetworkName) -> tuple[BlockCost, ...]:
    """Return the blocks' costs of one network."""
    return costs.generator if network == NETWORK_NAMES[0] else costs.discriminator


def _column(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float64)[:, None]
