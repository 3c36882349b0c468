"""What every latency model is: seconds of a step, stage by stage."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...split import Placement
from ..devices.units import UnitFigures
from .stage_tables import Ints, Stage


class LatencyModel(ABC):
    """Predicts the seconds of one step of a plan, stage by stage."""

    name: str

    def list_options(self, network: str, num_blocks: int) -> Ints:
        """Return the (options, 2) pairs of head and tail blocks that the model knows."""
        return list_cuts(Placement(), num_blocks)

    @abstractmethod
    def make_stages(self, network: str, options: Ints, figures: UnitFigures) -> Sequence[Stage]:
        """Return the stages of one network.

        Args:
            network: Which network.
            options: (options, 2) head and tail blocks.
            figures: The devices and the server.
        """


def list_cuts(allowed: Placement, num_blocks: int) -> Ints:
    """Return the (options, 2) head and tail blocks that a placement allows.

    Where the server holds nothing, heads and tails differ in name alone: one of them is listed.
    """
    if allowed.max_server == 0:
        return np.array([allowed.smallest(num_blocks)], dtype=np.int64)
    most = num_blocks if allowed.max_client is None else allowed.max_client
    pairs = [
        (head, tail)
        for head in range(allowed.min_head, num_blocks + 1)
        for tail in range(allowed.min_tail, num_blocks - head + 1)
        if head + tail <= min(most, num_blocks - allowed.min_server)
        and (allowed.max_server is None or num_blocks - head - tail <= allowed.max_server)
    ]
    return np.array(pairs, dtype=np.int64)


def is_held(options: Ints, num_blocks: int) -> NDArray[np.bool_]:
    """Return the (options, blocks) mask of what a client holds."""
    places = np.arange(num_blocks)
    mask: Any = (places < options[:, :1]) | (places >= num_blocks - options[:, 1:])
    return mask
