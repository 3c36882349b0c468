"""A client's own devices, one behind the other, that share a network which it holds whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError

Sharing = Literal["proportional", "even"]


@dataclass(frozen=True)
class Chain:
    """Devices of one user, such as FSL-GAN's, which hold runs of blocks in their order.

    What they send each other stays at home: it takes time and is no traffic of the client.

    Args:
        speeds_flops_per_s: Of every device, in the order of the blocks.
        lan_bits_per_s: Rate between two of them.
        sharing: "proportional" cuts where work is nearest to the devices' shares of speed, "even"
            into runs of as many blocks.
    """

    speeds_flops_per_s: tuple[float, ...]
    lan_bits_per_s: float
    sharing: Sharing = "proportional"

    def __post_init__(self) -> None:
        if self.sharing not in get_args(Sharing):
            known = ", ".join(get_args(Sharing))
            raise PlanError(f"chain_sharing is {self.sharing!r}; known: {known}")

    def share_out(self, work: Sequence[float]) -> NDArray[np.int64]:
        """Return the (blocks,) device of every block.

        Args:
            work: Of every block; only its proportions matter.
        """
        count, speeds = len(work), np.array(self.speeds_flops_per_s)
        if self.sharing == "even":
            return np.arange(count) * len(speeds) // count
        ends = np.cumsum(work) / max(float(np.sum(work)), np.finfo(float).tiny)
        middles = ends - np.diff(ends, prepend=0.0) / 2
        shares = np.cumsum(speeds)[:-1] / speeds.sum()
        return np.searchsorted(shares, middles, side="right")

    def count_seconds(
        self, holders: NDArray[np.int64], flops: NDArray[np.float64], num_bytes: Sequence[float]
    ) -> float:
        """Return the seconds of one sample's way through the chain, either way.

        Args:
            holders: (blocks,) device of every block, from `share_out`.
            flops: (blocks,) of the pass.
            num_bytes: (blocks,) that leave each block forward.
        """
        compute_s = (flops / np.array(self.speeds_flops_per_s)[holders]).sum()
        hops = np.asarray(num_bytes)[:-1][np.diff(holders) != 0]
        return float(compute_s + 8 * hops.sum() / self.lan_bits_per_s)
