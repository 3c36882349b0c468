"""The server: middle segments, who uses which copy of them, and what it may observe."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import HuscfError
from ..federation import ActivationStatistics
from ..methods import Pass, Phase
from ..models import MAIN, Carry, Network
from ..split import CutPlan
from .guard import Guard
from .holdings import PerCluster, ServerBlocks
from .party import PartKey, Party
from .segment import Clones, Segment


class Server(Party):
    """Holds every block that at least one client left to it; sees activations and gradients.

    Args:
        plan: Cuts of all clients.
        networks: The full networks to copy the server's blocks from.
        averaged: Networks of which the server keeps moving averages.
        observed: The network by whose activations clients are compared, or None.

    Attributes:
        clusters: Cluster of every client.
        statistics: What is known of the clients' activations in this round.
        guard: What is refused at the door.
        drawn: What it has drawn for every client's step (`Method.draw`), by client and name.
    """

    trained: ServerBlocks
    average: ServerBlocks | None

    def __init__(
        self,
        plan: CutPlan,
        networks: Mapping[str, Network],
        averaged: tuple[str, ...] = (),
        observed: str | None = None,
    ) -> None:
        kept = {name: networks[name] for name in averaged}
        average = ServerBlocks(plan, kept) if averaged else None
        super().__init__(ServerBlocks(plan, networks), average)
        self.plan = plan
        self.observed = observed
        self.clusters = dict.fromkeys(plan.client_ids, 0)
        self.statistics = ActivationStatistics(observed_boundary(plan, observed))
        self.guard = Guard()
        self.drawn: dict[int, Carry] = {}

    def segment(self, network: str, client_id: int) -> Segment:
        """Return the trained copy that serves a client."""
        return self.trained.segment(network, client_id)

    def server_range(self, network: str, client_id: int) -> range:
        """Return the indices of the blocks that a client leaves here."""
        cuts = self.plan.by_client[client_id].cuts
        return cuts.server_range(network, self.plan.num_blocks(network))

    def set_clusters(self, clusters: Mapping[int, int], per_cluster: PerCluster) -> Clones:
        """Take over an assignment, and let the copies of the blocks follow it.

        Args:
            clusters: Cluster of every client, 0..k-1.
            per_cluster: The blocks that every cluster has its own copy of.

        Returns:
            For every trained parameter of a new copy the one that it was cloned from.
        """
        self.clusters = dict(clusters)
        count, route = 1, dict.fromkeys(clusters, 0)
        if per_cluster is not False:
            count, route = max(clusters.values()) + 1, self.clusters
        if self.average is not None:
            self.average.set_copies(count, route, per_cluster)
        return self.trained.set_copies(count, route, per_cluster)

    def set_plan(self, plan: CutPlan) -> None:
        """Take over new cuts, after the blocks have moved; statistics begin anew."""
        self.plan = plan
        half_life = self.statistics.half_life
        self.statistics = ActivationStatistics(observed_boundary(plan, self.observed), half_life)

    def check_gradients(self, network: str) -> None:
        """Refuse to step on gradients that overflowed, although all that clients sent was finite.

        Raises:
            HuscfError: Naming the network.
        """
        gradients = [p.grad for p in self.parameters_of(network) if p.grad is not None]
        if not gradients:
            return
        norms = torch.stack(torch._foreach_norm(gradients))
        if not bool(norms.isfinite().all()):
            raise HuscfError(
                f"the server's gradients of the {network} are NaN or Inf, though what every client "
                "sent was finite: lower the learning rate"
            )

    def forget_runs(self) -> None:
        """Drop what is kept of passes, and what was drawn for them."""
        super().forget_runs()
        self.drawn.clear()

    # A pass, as the serial engine runs it

    def run_middle(self, item: Pass, client_id: int, arrived: Carry) -> Carry:
        """Run the blocks that a client left here; return all that they wrote."""
        segment = self.segment(item.network, client_id)
        indices = self.server_range(item.network, client_id)
        boundary = self.statistics.boundary if item.observe else None
        key = PartKey(client_id, item.name, item.network, "server")
        outputs = self.run_part(
            key, _Observed(self, segment, boundary, client_id), arrived, indices
        )
        return {name: tensor.detach() for name, tensor in outputs.items()}

    def go_back_middle(
        self, item: Pass, phase: Phase, client_id: int, arrived: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[nn.Parameter, Tensor]]:
        """Go back through the blocks that a client left here.

        Returns:
            Gradients for the client by name, and those of the server's parameters.
        """
        trains = item.network in phase.trains
        parameters = list(self.segment(item.network, client_id).parameters()) if trains else []
        key = PartKey(client_id, item.name, item.network, "server")
        return self.go_back(key, arrived, parameters=parameters)


class _Observed:
    """A segment that shows the server what passes one of its boundaries."""

    def __init__(
        self, server: Server, segment: Segment, boundary: int | None, client_id: int
    ) -> None:
        self.server, self.segment, self.boundary = server, segment, boundary
        self.client_id = client_id

    def __call__(self, carry: Carry, indices: range) -> Carry:
        if self.boundary is None:
            return self.segment(carry, indices)
        middle = self.segment(carry, range(indices.start, self.boundary))
        self.server.statistics.update([self.client_id], middle[MAIN].unsqueeze(1))
        return self.segment(middle, range(self.boundary, indices.stop))


def observed_boundary(plan: CutPlan, network: str | None) -> int | None:
    """Return the boundary of a network whose activations the server sees of every client.

    Boundary b lies before block b. The middle one is taken of those that all clients have in
    common. Without any, clients cannot be compared, and the result is None.
    """
    if network is None:
        return None
    count = plan.num_blocks(network)
    ranges = [c.cuts.server_range(network, count) for c in plan.clients]
    first, last = max(r.start for r in ranges), min(r.stop for r in ranges)
    if first > last or not any(ranges):
        return None
    return (first + last + 1) // 2
