"""The server: middle segments, who uses which copy of them, and what it may observe."""

import copy
from collections.abc import Hashable, Mapping, Sequence

from torch import Tensor, nn

from ..federation import ActivationStatistics
from ..models import Network, can_stack, run_stacked
from ..split import CutPlan, NetworkName
from .segment import Segment, clone_block

#: Largest group of samples that the server runs together; more wins nothing (docs/performance.md).
STACKED_SAMPLES = 64


class Server(nn.Module):
    """Holds every block that at least one client left to it; sees activations and gradients.

    There is one copy of the middle segments, or one per cluster. Each client is routed to one
    copy, and runs there the range of blocks that its cuts leave to the server.

    Args:
        plan: Cuts of all clients.
        networks: The full networks, one or both, to copy the server's blocks from.
    """

    def __init__(self, plan: CutPlan, networks: Mapping[NetworkName, Network]) -> None:
        super().__init__()
        self.plan = plan
        self.route = dict.fromkeys(plan.client_ids, 0)
        self.network_names = tuple(networks)
        for network in self.network_names:
            blocks = {
                index: copy.deepcopy(networks[network][index])
                for index in plan.server_blocks(network)
            }
            self.add_module(network, nn.ModuleList([Segment(blocks)]))
        self.statistics = ActivationStatistics(observed_boundary(plan))

    @property
    def num_copies(self) -> int:
        """Return the number of copies of the middle segments."""
        return len(self.copies(self.network_names[0]))

    def copies(self, network: NetworkName) -> list[Segment]:
        """Return all copies of the middle segment of one network."""
        copies = self.get_submodule(network)
        assert isinstance(copies, nn.ModuleList)
        return [copy for copy in copies if isinstance(copy, Segment)]

    def segment(self, network: NetworkName, client_id: int) -> Segment:
        """Return the copy that serves a client."""
        return self.copies(network)[self.route[client_id]]

    def set_copies(self, count: int, route: Mapping[int, int]) -> dict[nn.Parameter, nn.Parameter]:
        """Change the number of copies and who uses which.

        A new copy starts as a clone of the one that served its first client so far.

        Args:
            count: Number of copies from now on.
            route: Copy of every client, 0 to count - 1.

        Returns:
            For every parameter of a clone the parameter that it was cloned from.
        """
        first = {which: client for client, which in sorted(route.items(), reverse=True)}
        sources = [self.route[first[which]] if which in first else 0 for which in range(count)]
        cloned_from: dict[nn.Parameter, nn.Parameter] = {}
        for network in self.network_names:
            old = self.copies(network)
            new: list[Segment] = []
            for which, source in enumerate(sources):
                original = old[source]
                if source in sources[:which]:
                    new.append(clone_block(original, cloned_from))
                else:
                    new.append(original)
            self.add_module(network, nn.ModuleList(new))
        self.route = dict(route)
        return cloned_from

    def take_over(
        self, plan: CutPlan, before: Mapping[tuple[int, NetworkName], Network]
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Hold exactly the blocks that a new plan leaves to the server, in every copy.

        Args:
            plan: The new plan.
            before: Every client's whole network under the old plan. A block that the server did
                not have is cloned from the first client that each copy serves.

        Returns:
            For every parameter of a clone the parameter that it was cloned from.
        """
        cloned_from: dict[nn.Parameter, nn.Parameter] = {}
        for network in self.network_names:
            segments = []
            for which, old in enumerate(self.copies(network)):
                first = min(c for c, copy in self.route.items() if copy == which)
                blocks = {}
                for index in plan.server_blocks(network):
                    if index in old.indices:
                        blocks[index] = old.block(index)
                    else:
                        blocks[index] = clone_block(before[first, network][index], cloned_from)
                segments.append(Segment(blocks))
            self.add_module(network, nn.ModuleList(segments))
        self.plan = plan
        self.statistics = ActivationStatistics(observed_boundary(plan))
        return cloned_from

    def groups(self, batch_sizes: Mapping[int, int]) -> list[list[int]]:
        """Divide clients into groups whose batches run through the server together.

        Small batches use a processor badly. Together go clients of one copy, with the same cuts
        and batch size, up to STACKED_SAMPLES samples, where the blocks allow it. The division
        is the same every time, and groups and their members keep the order of the clients.

        Args:
            batch_sizes: Samples of each participant.
        """
        groups: list[list[int]] = []
        open_groups: dict[Hashable, list[int]] = {}
        for client_id, batch_size in batch_sizes.items():
            ranges = tuple(self._range(network, client_id) for network in self.network_names)
            key = (self.route[client_id], batch_size, ranges)
            group = open_groups.get(key)
            if group is None or (len(group) + 1) * batch_size > STACKED_SAMPLES:
                group = []
                groups.append(group)
            group.append(client_id)
            if self._can_stack(client_id):
                open_groups[key] = group
        return groups

    def forward(
        self,
        network: NetworkName,
        client_ids: Sequence[int],
        activations: Tensor,
        observe: bool = False,
    ) -> Tensor:
        """Run the activations of a group of clients through the blocks that they left here.

        Args:
            network: Which network.
            client_ids: Whose activations; K clients of one group.
            activations: (B, K, ...) at their head cuts.
            observe: Add the activations at the observed boundary to the epoch's statistics.

        Returns:
            (B, K, ...) at their tail cuts.
        """
        segment = self.segment(network, client_ids[0])
        indices = self._range(network, client_ids[0])
        boundary = self.statistics.boundary
        if not observe or boundary is None:
            return run_stacked(map(segment.block, indices), activations)
        middle = run_stacked(map(segment.block, range(indices.start, boundary)), activations)
        for client_id, own in zip(client_ids, middle.detach().unbind(1), strict=True):
            self.statistics.update(client_id, own)
        return run_stacked(map(segment.block, range(boundary, indices.stop)), middle)

    def _range(self, network: NetworkName, client_id: int) -> range:
        cuts = self.plan.by_client[client_id].cuts
        return cuts.server_range(network, self.plan.num_blocks(network))

    def _can_stack(self, client_id: int) -> bool:
        return all(
            can_stack(map(self.segment(network, client_id).block, self._range(network, client_id)))
            for network in self.network_names
        )


def observed_boundary(plan: CutPlan) -> int | None:
    """Return the discriminator boundary whose activations the server sees of every client.

    Boundary b lies before block b. Of those that all clients have in common the middle one is
    taken; None where there is none, and then clients cannot be compared.
    """
    count = plan.discriminator_blocks
    ranges = [c.cuts.server_range("discriminator", count) for c in plan.clients]
    first, last = max(r.start for r in ranges), min(r.stop for r in ranges)
    return None if first > last else (first + last + 1) // 2
