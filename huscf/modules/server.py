"""The server: middle segments, who uses which copy of them, and what it may observe."""

import copy
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..federation import ActivationStatistics, mix_blocks
from ..models import BatchStatistics, Network, run_stacked
from ..split import CutPlan, NetworkName
from .segment import Segment, clone_block

#: Largest number of samples that run side by side, and from which batch size on a client runs
#: alone (docs/performance.md).
STACKED_SAMPLES = 128
LARGE_BATCH = 64

Normalization = Literal["client", "together"]

#: Which of the server's blocks every cluster has a copy of its own of: all, none, or those listed.
PerCluster = bool | Mapping[NetworkName, Sequence[int]]


class Server(nn.Module):
    """Holds every block that at least one client left to it; sees activations and gradients.

    There is one copy of the middle segments, or one per cluster. Each client is routed to one
    copy, and runs there the range of blocks that its cuts leave to the server.

    Args:
        plan: Cuts of all clients.
        networks: The full networks, one or both, to copy the server's blocks from.
        normalization: Over whom batch norms at the server take their statistics: each "client"
            alone, or all clients of a copy "together" as the paper's code does.
    """

    def __init__(
        self,
        plan: CutPlan,
        networks: Mapping[NetworkName, Network],
        normalization: Normalization = "client",
    ) -> None:
        super().__init__()
        self.plan = plan
        self.normalization = normalization
        self.route = dict.fromkeys(plan.client_ids, 0)
        self.per_cluster: PerCluster = True
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

    def set_copies(
        self, count: int, route: Mapping[int, int], per_cluster: PerCluster = True
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Change the number of copies and who uses which.

        A new copy is the one that served most of its clients so far, or a clone where that goes
        on as another. Blocks that are not per cluster are one and the same in all copies.

        Args:
            count: Number of copies from now on.
            route: Copy of every client, 0 to count - 1.
            per_cluster: Which blocks the copies do not share.

        Returns:
            For every parameter of a clone the parameter that it was cloned from.
        """
        votes = Counter((which, self.route[client]) for client, which in route.items())
        olds = range(self.num_copies)
        sources = [max(olds, key=lambda old: votes[which, old]) for which in range(count)]
        cloned_from: dict[nn.Parameter, nn.Parameter] = {}
        for network in self.network_names:
            old = self.copies(network)
            new: list[dict[int, nn.Module]] = []
            for which, source in enumerate(sources):
                blocks = {index: old[source].block(index) for index in old[source].indices}
                for index, block in blocks.items():
                    if which and not _is_per_cluster(per_cluster, network, index):
                        blocks[index] = new[0][index]
                    elif source in sources[:which]:
                        blocks[index] = clone_block(block, cloned_from)
                new.append(blocks)
            self.add_module(network, nn.ModuleList(map(Segment, new)))
        self.route = dict(route)
        self.per_cluster = per_cluster
        return cloned_from

    def take_over(
        self, plan: CutPlan, before: Mapping[tuple[int, NetworkName], Network]
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Hold exactly the blocks that a new plan leaves to the server, in every copy.

        Args:
            plan: The new plan.
            before: Every client's whole network under the old plan. A block that the server did
                not have is cloned from the first client that each copy serves; one that clusters
                share becomes the mean of its users', with the moments of the first.

        Returns:
            For every parameter of a clone the parameter that it was cloned from.
        """
        cloned_from: dict[nn.Parameter, nn.Parameter] = {}
        for network in self.network_names:
            segments: list[Segment] = []
            for which, old in enumerate(self.copies(network)):
                first = min(c for c, copy in self.route.items() if copy == which)
                blocks = {}
                for index in plan.server_blocks(network):
                    if index in old.indices:
                        blocks[index] = old.block(index)
                    elif which and not _is_per_cluster(self.per_cluster, network, index):
                        blocks[index] = segments[0].block(index)
                    else:
                        blocks[index] = clone_block(before[first, network][index], cloned_from)
                        if not _is_per_cluster(self.per_cluster, network, index):
                            users = _list_users(plan, network, index)
                            _set_to_mean(blocks[index], [before[c, network][index] for c in users])
                segments.append(Segment(blocks))
            self.add_module(network, nn.ModuleList(segments))
        self.plan = plan
        self.statistics = ActivationStatistics(observed_boundary(plan), self.statistics.half_life)
        return cloned_from

    def groups(
        self, batch_sizes: Mapping[int, int], is_stackable: Callable[[int], bool]
    ) -> list[list[list[int]]]:
        """Divide clients into groups that go through a network after one another.

        A group is a list of lanes, a lane a list of clients that compute side by side: small
        batches use a processor badly. Of one lane are clients of one copy, with the same cuts
        and batch size, up to STACKED_SAMPLES samples, where the blocks allow it. Where clients
        are normalised apart every lane is a group; together, those of one copy are one group.
        The division is the same every time; lanes and their members keep the order of clients.

        Args:
            batch_sizes: Samples of each participant.
            is_stackable: Whether a client's blocks, and those that it left here, may run beside
                those of others.
        """
        alike: dict[Hashable, list[int]] = {}
        for client_id, batch_size in batch_sizes.items():
            ranges = tuple(self._range(network, client_id) for network in self.network_names)
            alike.setdefault((self.route[client_id], batch_size, ranges), []).append(client_id)
        lanes = []
        for members in alike.values():
            batch_size = batch_sizes[members[0]]
            runs_alone = batch_size >= LARGE_BATCH or not all(map(is_stackable, members))
            lanes += _divide(members, 1 if runs_alone else max(1, STACKED_SAMPLES // batch_size))
        lanes.sort(key=lambda lane: lane[0])
        if self.normalization == "client":
            return [[lane] for lane in lanes]
        by_copy: dict[int, list[list[int]]] = {}
        for lane in lanes:
            by_copy.setdefault(self.route[lane[0]], []).append(lane)
        return list(by_copy.values())

    def forward(
        self,
        network: NetworkName,
        lanes: Sequence[Sequence[int]],
        activations: Sequence[Tensor],
        observe: bool = False,
        pending: list[BatchStatistics] | None = None,
    ) -> list[Tensor]:
        """Run the activations of a group of clients through the blocks that they left here.

        Args:
            network: Which network.
            lanes: The group's clients.
            activations: Of every lane, (B, K, ...) at its head cuts.
            observe: Add the activations at the observed boundary to the epoch's statistics.
            pending: Gets what running statistics have to follow; None lets them follow at once.

        Returns:
            Of every lane, (B, K, ...) at its tail cuts.
        """
        if self.normalization == "together":
            return self._run_together(network, lanes, activations, observe)
        (lane,), (values,) = lanes, activations
        indices = self._range(network, lane[0])
        boundary = self.statistics.boundary if observe else None
        if boundary is None:
            return [self._run(network, lane, indices, values, pending)]
        middle = self._run(network, lane, range(indices.start, boundary), values, pending)
        self.statistics.update(lane, middle)
        return [self._run(network, lane, range(boundary, indices.stop), middle, pending)]

    def parameters_used(self, network: NetworkName, client_id: int) -> list[nn.Parameter]:
        """Return the parameters of the copy that serves a client, in fixed order."""
        return list(self.segment(network, client_id).parameters())

    def is_stackable(self, client_id: int) -> bool:
        """Return whether the copy that serves a client may serve several clients at once."""
        return all(self.segment(network, client_id).is_stackable for network in self.network_names)

    def _run(
        self,
        network: NetworkName,
        lane: Sequence[int],
        indices: range,
        activations: Tensor,
        pending: list[BatchStatistics] | None,
    ) -> Tensor:
        segment = self.segment(network, lane[0])
        if not segment.is_stackable:
            return segment(activations.squeeze(1), indices=indices).unsqueeze(1)
        blocks = [segment.block(index) for index in indices]
        return run_stacked([blocks] * len(lane), activations, pending=pending)

    def _run_together(
        self,
        network: NetworkName,
        lanes: Sequence[Sequence[int]],
        activations: Sequence[Tensor],
        observe: bool,
    ) -> list[Tensor]:
        """Run every block on all clients that left it here, as one batch.

        Source: the paper's released code, which normalises the concatenation of all clients.
        """
        segment = self.segment(network, lanes[0][0])
        ranges = [self._range(network, lane[0]) for lane in lanes]
        values = list(activations)
        for index in range(segment.indices[-1] + 2):
            if observe and index == self.statistics.boundary:
                for lane, own in zip(lanes, values, strict=True):
                    self.statistics.update(lane, own)
            joined = [which for which, own in enumerate(ranges) if index in own]
            if not joined:
                continue
            samples = [values[which].flatten(0, 1) for which in joined]
            outputs = segment.block(index)(torch.cat(samples)).split([len(s) for s in samples])
            for which, output in zip(joined, outputs, strict=True):
                values[which] = output.unflatten(0, values[which].shape[:2])
        return values

    def _range(self, network: NetworkName, client_id: int) -> range:
        cuts = self.plan.by_client[client_id].cuts
        return cuts.server_range(network, self.plan.num_blocks(network))


def _is_per_cluster(per_cluster: PerCluster, network: NetworkName, index: int) -> bool:
    if isinstance(per_cluster, bool):
        return per_cluster
    return index in per_cluster.get(network, ())


def _list_users(plan: CutPlan, network: NetworkName, index: int) -> list[int]:
    """Return the clients that leave a block to the server."""
    count = plan.num_blocks(network)
    return [c.client_id for c in plan.clients if index in c.cuts.server_range(network, count)]


def _set_to_mean(block: nn.Module, others: Sequence[nn.Module]) -> None:
    """Make a block the mean of other copies of it."""
    matrix = torch.eye(1 + len(others), dtype=torch.float64)
    matrix[0] = 1 / len(others)
    matrix[0, 0] = 0.0
    mix_blocks([block, *others], matrix)


def _divide(members: list[int], limit: int) -> list[list[int]]:
    """Cut a list into parts of at most so many; an even number, for two threads to share."""
    count = -(-len(members) // limit)
    if 1 < count < len(members):
        count += count % 2
    ends = [len(members) * i // count for i in range(count + 1)]
    return [members[start:end] for start, end in pairwise(ends)]


def observed_boundary(plan: CutPlan) -> int | None:
    """Return the discriminator boundary whose activations the server sees of every client.

    Boundary b lies before block b. Of those that all clients have in common the middle one is
    taken; None where there is none, and then clients cannot be compared.
    """
    count = plan.discriminator_blocks
    ranges = [c.cuts.server_range("discriminator", count) for c in plan.clients]
    first, last = max(r.start for r in ranges), min(r.stop for r in ranges)
    return None if first > last else (first + last + 1) // 2
