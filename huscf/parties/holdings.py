"""Which blocks a client and the server hold, and how that follows new cuts and clusters."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from ..models import Network
from ..split import ClientCuts, ClientPlan, CutPlan
from .block_state import copy_sharing
from .segment import Clones, Segment, clone_block

#: The server's blocks that every cluster has its own copy of: all, none, or those listed.
PerCluster = bool | Mapping[str, Sequence[int]]


class ClientBlocks(nn.Module):
    """A client's heads and tails; they share the networks' memory until they are trained.

    Args:
        entry: The client's line in the cut plan.
        networks: The full networks to copy the client's blocks from.
    """

    def __init__(self, entry: ClientPlan, networks: Mapping[str, Network]) -> None:
        super().__init__()
        self.network_names = tuple(networks)
        for name, network in networks.items():
            own = entry.cuts.held(name, len(network))
            blocks = {index: copy_sharing(network[index]) for index in own}
            self.hold(name, entry.cuts, len(network), blocks)

    def segment(self, network: str, end: str) -> Segment:
        """Return a segment; end is "head" or "tail"."""
        segment = self._modules[f"{network}_{end}"]
        assert isinstance(segment, Segment)
        return segment

    def segments(self, network: str) -> list[Segment]:
        """Return head and tail of a network."""
        return [self.segment(network, "head"), self.segment(network, "tail")]

    def blocks(self, network: str) -> dict[int, nn.Module]:
        """Return the blocks that the client holds, by index in the full network."""
        return {i: block for each in self.segments(network) for i, block in each.by_index().items()}

    def hold(
        self, network: str, cuts: ClientCuts, num_blocks: int, blocks: Mapping[int, nn.Module]
    ) -> None:
        """Hold exactly these blocks of a network, divided into head and tail as the cuts say."""
        head = cuts.head(network)
        self.add_module(f"{network}_head", Segment({i: b for i, b in blocks.items() if i < head}))
        self.add_module(f"{network}_tail", Segment({i: b for i, b in blocks.items() if i >= head}))


class ServerBlocks(nn.Module):
    """Every block that at least one client left to the server.

    There is one copy of the middle segments, or one per cluster. Each client is routed to one
    copy, and runs there the range of blocks that its cuts leave to the server.

    Args:
        plan: Cuts of all clients.
        networks: The full networks to copy the server's blocks from.
    """

    def __init__(self, plan: CutPlan, networks: Mapping[str, Network]) -> None:
        super().__init__()
        self.network_names = tuple(networks)
        self.route = dict.fromkeys(plan.client_ids, 0)
        self.per_cluster: PerCluster = True
        for name, network in networks.items():
            blocks = {index: copy.deepcopy(network[index]) for index in plan.server_blocks(name)}
            self.add_module(name, nn.ModuleList([Segment(blocks)]))

    @property
    def num_copies(self) -> int:
        """Return the number of copies of the middle segments."""
        return len(self.copies(self.network_names[0]))

    def copies(self, network: str) -> list[Segment]:
        """Return all copies of the middle segment of one network."""
        copies = self.get_submodule(network)
        assert isinstance(copies, nn.ModuleList)
        return [copy for copy in copies if isinstance(copy, Segment)]

    def segments(self, network: str) -> list[Segment]:
        """Return all copies of the middle segment of one network."""
        return self.copies(network)

    def segment(self, network: str, client_id: int) -> Segment:
        """Return the copy that serves a client."""
        return self.copies(network)[self.route[client_id]]

    def is_per_cluster(self, network: str, index: int) -> bool:
        """Return whether every cluster has its own copy of a block."""
        if isinstance(self.per_cluster, bool):
            return self.per_cluster
        return index in self.per_cluster.get(network, ())

    def routed_to(self, which: int) -> list[int]:
        """Return the clients that a copy serves."""
        return [client for client, copy in self.route.items() if copy == which]

    def set_copies(
        self, count: int, route: Mapping[int, int], per_cluster: PerCluster = True
    ) -> Clones:
        """Change the number of copies and who uses which.

        A new copy goes on from the old one that served most of its clients. Where two new copies
        go on from the same old one, the second gets a clone. Blocks that are not per cluster are
        shared by all copies.

        Args:
            count: Number of copies from now on.
            route: Copy of every client, 0 to count - 1.
            per_cluster: Which blocks the copies do not share.

        Returns:
            For every parameter of a clone the parameter that it was cloned from.
        """
        votes = Counter((which, self.route.get(client, 0)) for client, which in route.items())
        olds = range(self.num_copies)
        sources = [max(olds, key=lambda old: votes[which, old]) for which in range(count)]
        self.route = dict(route)
        self.per_cluster = per_cluster
        cloned_from: Clones = {}
        for network in self.network_names:
            old = self.copies(network)
            new: list[dict[int, nn.Module]] = []
            taken: set[nn.Module] = set()
            for source in sources:
                blocks = dict(old[source].by_index())
                for index, block in blocks.items():
                    if new and not self.is_per_cluster(network, index):
                        blocks[index] = new[0][index]
                    elif block in taken:
                        blocks[index] = clone_block(block, cloned_from)
                new.append(blocks)
                taken.update(blocks.values())
            self.hold(network, new)
        return cloned_from

    def hold(self, network: str, copies: Sequence[Mapping[int, nn.Module]]) -> None:
        """Hold exactly these blocks of a network in every copy."""
        self.add_module(network, nn.ModuleList([Segment(blocks) for blocks in copies]))


def tensors_of(holding: ClientBlocks | ServerBlocks) -> Iterator[Tensor]:
    """Yield all parameters and buffers of a party's blocks, in fixed order."""
    for network in holding.network_names:
        for segment in holding.segments(network):
            yield from segment.tensors()


def named_parameters(
    holding: ClientBlocks | ServerBlocks, network: str
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a party's blocks of a network once each, in fixed order.

    Names are unique within the party and stay the same whatever engine trains it.
    """
    seen: set[nn.Parameter] = set()
    for place, segment in enumerate(holding.segments(network)):
        for name, parameter in segment.named_parameters():
            if parameter not in seen:
                seen.add(parameter)
                yield f"{place}.{name}", parameter
