"""The clients and the server of a run, and what a federation or new cuts do to their blocks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..federation import block_tensors, mix_blocks, mixing_matrix
from ..models import Network, renew_spectral_norms
from ..split import Cut, CutPlan, NetworkName, cuts_of
from .client import Client
from .optimizer_state import Moments, copy_state, forget_state, mix_state
from .segment import Segment
from .server import Normalization, PerCluster, Server


class Parties(nn.Module):
    """Clients and server as separate objects, all sliced from one pair of networks.

    Args:
        plan: Cuts of all clients.
        networks: The full networks, one or both; every party gets copies of its blocks.
        normalization: Of the server's batch norms, see Server.
    """

    def __init__(
        self,
        plan: CutPlan,
        networks: Mapping[NetworkName, Network],
        normalization: Normalization = "client",
    ) -> None:
        super().__init__()
        self.plan = plan
        self.network_names = tuple(networks)
        self.clusters = dict.fromkeys(plan.client_ids, 0)
        self.clients = nn.ModuleDict(
            {str(entry.client_id): Client(entry, networks) for entry in plan.clients}
        )
        self.server = Server(plan, networks, normalization)

    def client(self, client_id: int) -> Client:
        """Return one client."""
        client = self.clients[str(client_id)]
        assert isinstance(client, Client)
        return client

    def block(self, network: NetworkName, client_id: int, index: int) -> nn.Module:
        """Return the copy of a block that a client uses, its own or the server's."""
        own = self.client(client_id).blocks(network)
        return own[index] if index in own else self.server.segment(network, client_id).block(index)

    def merged_network(self, network: NetworkName, client_id: int) -> Network:
        """Return a client's whole network, its blocks and the server's, sharing their tensors."""
        return Network(self.blocks_of(network, client_id))

    def blocks_of(self, network: NetworkName, client_id: int) -> list[nn.Module]:
        """Return the blocks of a client's whole network, its own and the server's, in order."""
        own = self.client(client_id).blocks(network)
        served = self.server.segment(network, client_id)
        indices = range(self.plan.num_blocks(network))
        return [own[i] if i in own else served.block(i) for i in indices]

    def parameters_of(self, network: NetworkName) -> list[nn.Parameter]:
        """Return the parameters of all parts of one network, clients first, in fixed order."""
        every = (p for segment in self._segments(network) for p in segment.parameters())
        return list(dict.fromkeys(every))

    @torch.no_grad()
    def follow(self, other: "Parties", decay: float) -> None:
        """Move towards the parties that train: x <- decay * x + (1 - decay) * other's x.

        Args:
            other: Parties of the same structure, with at least these networks.
            decay: 0 copies them, 1 changes nothing. Counters are copied.
        """
        for network in self.network_names:
            own, theirs = (_state_of(p._segments(network)) for p in (self, other))
            # PyTorch refuses empty lists: a network without batch norm has no counters.
            if own.floats:
                torch._foreach_lerp_(own.floats, theirs.floats, 1 - decay)
            if own.counters:
                torch._foreach_copy_(own.counters, theirs.counters)
            for segment in self._segments(network):
                renew_spectral_norms(segment.spectral_norms, num_iterations=1)

    def _segments(self, network: NetworkName) -> list[Segment]:
        segments: list[Segment] = []
        for client_id in self.plan.client_ids:
            client = self.client(client_id)
            segments += [client.segment(network, "head"), client.segment(network, "tail")]
        return segments + self.server.copies(network)

    def set_clusters(
        self, clusters: Mapping[int, int], per_cluster: PerCluster
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Take over an assignment, and let the server's copies follow it.

        Args:
            clusters: Cluster of every client, 0..k-1.
            per_cluster: Which of the server's blocks every cluster has a copy of its own of.

        Returns:
            For every parameter of a new copy the parameter that it was cloned from.
        """
        self.clusters = dict(clusters)
        if per_cluster is False:
            return self.server.set_copies(1, dict.fromkeys(clusters, 0), False)
        return self.server.set_copies(max(clusters.values()) + 1, self.clusters, per_cluster)

    def federate(
        self,
        clusters: Mapping[int, int],
        weights: Mapping[int, float],
        per_cluster: PerCluster = True,
        optimizers: Mapping[NetworkName, Optimizer] | None = None,
        moments: Moments = "keep",
    ) -> None:
        """Take over an assignment and average every block within every cluster.

        Every member is represented by the copy of the block that it has trained: its own, or that
        of the server's which served it so far, in whichever cluster it was. The result goes to all
        members that hold the block and to the server's copy of the cluster; a copy that several
        clusters share takes the mean of all its users. Running statistics of normalisation are
        pooled, counters left alone.

        Args:
            clusters: Cluster of every client, 0..k-1.
            weights: Weight of every client; those of a cluster sum to 1.
            per_cluster: Which of the server's blocks every cluster has a copy of its own of.
            optimizers: Whose moments are treated.
            moments: What happens to Adam's moments: "keep" each copy's own, "average" them like
                the parameters, or "reset" them to those of a first step. Moments of a client
                that has diverged are not kept.
        """
        optimizers = optimizers or {}
        trained = {network: self._holders(network) for network in self.network_names}
        diverged = [c for c, w in weights.items() if w == 0 and not self.client(c).is_finite()]
        cloned_from = self.set_clusters(clusters, per_cluster)
        for network, holders_of in trained.items():
            optimizer = optimizers.get(network)
            if optimizer is not None:
                copy_state(optimizer, cloned_from)
            for index, (before, now) in enumerate(
                zip(holders_of, self._holders(network), strict=True)
            ):
                users = self._users_of_copies(network, index, now)
                users |= {copy: [] for copy in before.values() if copy not in users}
                matrix = mixing_matrix(before, users, self.clusters, weights)
                mix_blocks(list(users), matrix)
                if optimizer is not None:
                    mix_state(optimizer, list(users), matrix, moments)
            if optimizer is not None and moments == "keep":
                forget_state(optimizer, [p for c in diverged for p in self.client(c).parameters()])

    def federation_bytes(self, moments: Moments = "keep") -> Iterator[tuple[int, Cut, int]]:
        """Yield client, cut and bytes that each member of a real cluster sends and receives."""
        sizes = Counter(self.clusters.values())
        for client_id, cluster in self.clusters.items():
            for network in self.network_names if sizes[cluster] > 1 else ():
                for end, cut in zip(("head", "tail"), cuts_of(network), strict=True):
                    segment = self.client(client_id).segment(network, end)
                    tensors = block_tensors(segment)
                    if moments == "average":
                        tensors += 2 * list(segment.parameters())
                    yield client_id, cut, sum(t.nbytes for t in tensors)

    def apply_plan(self, plan: CutPlan) -> dict[nn.Parameter, nn.Parameter]:
        """Move blocks between clients and server so that they stand as a new plan says.

        Every client keeps the network that it had: a block that comes to a client is a clone of
        the server copy that it used; a block that goes to the server becomes the server's copy
        where there is none, and is dropped where there is one (after a federation inside the
        cluster the two are equal). Where clusters share the block at the server, its new copy is
        the mean of its users'. Server blocks that nobody uses any more are removed.

        Args:
            plan: New cuts of the same clients and networks.

        Returns:
            For every parameter of a clone the parameter that it was cloned from.
        """
        before = {
            (client_id, network): self.merged_network(network, client_id)
            for client_id in plan.client_ids
            for network in self.network_names
        }
        cloned_from = self.server.take_over(plan, before)
        for entry in plan.clients:
            for network in self.network_names:
                blocks = before[entry.client_id, network]
                client = self.client(entry.client_id)
                cloned_from |= client.take_over(entry.cuts, network, blocks)
        self.plan = plan
        return cloned_from

    def restore(
        self,
        plan: CutPlan,
        clusters: Mapping[int, int],
        route: Mapping[int, int],
        per_cluster: PerCluster = True,
    ) -> None:
        """Take over the structure of a checkpoint, whose parameters are loaded next.

        Args:
            plan: Cuts at the time of the checkpoint.
            clusters: Cluster of every client.
            route: Server copy of every client.
            per_cluster: Which of the server's blocks the copies do not share.
        """
        if plan != self.plan:
            self.apply_plan(plan)
        self.clusters = dict(clusters)
        self.server.set_copies(max(route.values()) + 1, route, per_cluster)

    def _holders(self, network: NetworkName) -> list[dict[int, nn.Module]]:
        """Return, for every block in order, the copy that each client uses."""
        blocks = {c: self.blocks_of(network, c) for c in self.clusters}
        return [
            {c: own[i] for c, own in blocks.items()} for i in range(self.plan.num_blocks(network))
        ]

    def _users_of_copies(
        self, network: NetworkName, index: int, holders: Mapping[int, nn.Module]
    ) -> dict[nn.Module, list[int]]:
        """Return every copy of a block, in a fixed order, and the clients it stands for.

        A server copy stands for the clients that use it, or for all that are routed to it where
        each of them holds the block itself: so it stays fit for use after a change of cuts.
        """
        users: dict[nn.Module, list[int]] = {}
        for client_id, holder in holders.items():
            users.setdefault(holder, []).append(client_id)
        idle: dict[nn.Module, list[int]] = {}
        for which, segment in enumerate(self.server.copies(network)):
            routed = [c for c, copy in self.server.route.items() if copy == which]
            if index in segment.indices and segment.block(index) not in users and routed:
                idle.setdefault(segment.block(index), []).extend(routed)
        return users | idle


class _State(NamedTuple):
    floats: list[Tensor]
    counters: list[Tensor]


def _state_of(segments: Iterable[Segment]) -> _State:
    """Return the parameters and buffers of segments, floating point or not, in fixed order."""
    state = _State([], [])
    every = (tensor for segment in segments for tensor in segment.tensors())
    # Segments may share blocks; tensors are told apart by identity, not by value.
    for tensor in {id(tensor): tensor for tensor in every}.values():
        (state.floats if tensor.is_floating_point() else state.counters).append(tensor)
    return state
