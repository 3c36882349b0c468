"""What every latency model is: seconds of a step, stage by stage."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..devices.units import UnitFigures
from .stage_tables import Ints, Stage


class LatencyModel(ABC):
    """Predicts the seconds of one step of a plan, stage by stage."""

    name: str

    def list_options(self, network: str, num_blocks: int) -> Ints:
        """Return the (options, 2) pairs of head and tail blocks that the model knows."""
        pairs = [
            (head, tail)
            for head in range(1, num_blocks - 1)
            for tail in range(1, num_blocks - head)
        ]
        return np.array(pairs, dtype=np.int64)

    @abstractmethod
    def make_stages(self, network: str, options: Ints, figures: UnitFigures) -> Sequence[Stage]:
        """Return the stages of one network.

        Args:
            network: Which network.
            options: (options, 2) head and tail blocks.
            figures: The devices and the server.
        """


def is_held(options: Ints, num_blocks: int) -> NDArray[np.bool_]:
    """Return the (options, blocks) mask of what a client holds."""
    places = np.arange(num_blocks)
    mask: Any = (places < options[:, :1]) | (places >= num_blocks - options[:, 1:])
    return mask
