"""What every cut gives away of the samples, as it was measured and written into a file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...text_files import read_text
from ...user_paths import expand_path
from .block_costs import BlockCost


@dataclass(frozen=True)
class Leakage:
    """What the server can make of the samples that go through one network.

    Args:
        network: Which network; what heads of the others send is not made of samples.
        block_params: Numbers in the parameters of each of its blocks, by which it is known again.
        heads: Blocks of a head -> share of the variance of samples that an attacker gives back
            from what the head sends, from 0 (no more than the mean sample) to 1 (exactly).
    """

    network: str
    block_params: tuple[int, ...]
    heads: Mapping[int, float]

    @classmethod
    def load(cls, path: str) -> "Leakage":
        """Read the key leakage of a file that `huscf leakage` or `huscf audit` wrote.

        Raises:
            PlanError: Naming the file and what is wrong with it.
        """
        try:
            values = json.loads(read_text(Path(expand_path(path))))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PlanError(f"leakage {path}: cannot be read: {reason}") from error
        found = values.get("leakage") if isinstance(values, dict) else None
        try:
            return cls._read(found)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise PlanError(
                f"leakage {path}: says of no cut what it gives away; write it with huscf leakage, "
                "or with huscf audit on a run whose clients send what they make of samples"
            ) from error

    @classmethod
    def _read(cls, values: Any) -> "Leakage":
        heads = {int(head): float(share) for head, share in values["heads"].items()}
        if not heads or not all(0 <= share <= 1 for share in heads.values()) or min(heads) < 1:
            raise ValueError("no shares")
        params = tuple(int(count) for count in values["block_params"])
        return cls(str(values["network"]), params, dict(sorted(heads.items())))

    def check(self, blocks: Mapping[str, tuple[BlockCost, ...]]) -> None:
        """Raise a PlanError unless it was measured on networks of these blocks."""
        own = blocks.get(self.network)
        if own is None or tuple(block.num_params for block in own) != self.block_params:
            of_plan = "none" if own is None else _list([block.num_params for block in own])
            raise PlanError(
                f"leakage: measured on a {self.network} with blocks of {_list(self.block_params)} "
                f"parameters, planned is one of {of_plan}; measure what you plan for"
            )

    def of_options(self, network: str, options: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (options,) shares that heads and tails of a network give away.

        A head that was not measured gives away what the next shorter one does, as its activations
        are made of that one's; one shorter than all that were, everything. Where no block is the
        server's, nothing crosses.

        Args:
            network: Which network.
            options: (options, 2) head and tail blocks.
        """
        if network != self.network:
            return np.zeros(len(options))
        measured = np.array(list(self.heads))
        shares = np.array([1.0, *self.heads.values()])
        found = shares[np.searchsorted(measured, options[:, 0], side="right")]
        crosses = options.sum(axis=1) < len(self.block_params)
        return np.where(crosses, found, 0.0)

    def list_above(self, limit: float) -> list[float]:
        """Return the shares above a limit that a cut may give away, ascending."""
        return sorted({share for share in (*self.heads.values(), 1.0) if share > limit})


def check_share(name: str, limit: float | None) -> None:
    """Raise a PlanError that names a limit unless it is None or from 0 to 1."""
    if limit is not None and not (math.isfinite(limit) and 0 <= limit <= 1):
        raise PlanError(f"{name} is {limit}, must be from 0 (nothing) to 1 (everything)")


def _list(counts: Any) -> str:
    return ", ".join(map(str, counts))
