"""The server's blocks that every cluster has its own copy of: the option `server`."""

from collections.abc import Mapping, Sequence
from typing import Literal

from ..errors import HuscfError
from ..split import CutPlan

#: "cluster": a copy of all blocks per cluster; "shared": one of each for all clusters; a mapping
#: lists, by network, the blocks that every cluster has a copy of, and the others are shared.
ServerCopies = Literal["cluster", "shared"] | Mapping[str, Sequence[int]]


def check_server_copies(copies: ServerCopies, plan: CutPlan) -> None:
    """Refuse blocks that no cut leaves to the server: the first, the last, and those beyond.

    Raises:
        HuscfError: Naming the network or the block.
    """
    for network, indices in copies.items() if isinstance(copies, Mapping) else ():
        if network not in plan.networks:
            raise HuscfError(
                f"federation.server: no network {network!r}; there are {', '.join(plan.networks)}"
            )
        last = plan.num_blocks(network) - 2
        for index in indices:
            if not 1 <= index <= last:
                raise HuscfError(
                    f"federation.server: the {network} has no server block {index}; "
                    f"blocks count from 0, and 1 to {last} can be at the server"
                )
