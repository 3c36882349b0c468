"""What engines have in common whose parties all live in this process."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..federation import ActivationStatistics, ActivationSummary
from ..methods import Forward, Method, find_drawn, trace_inputs
from ..models import Carry, Network, SampleShape, run_to_draw
from ..parties import (
    Client,
    Party,
    Server,
    copy_moments,
)
from ..randomness import make_generator
from ..split import CutPlan
from ..wire import SERVER, MemoryWire, Message, Wire
from .averages import update_averages
from .base import Batches, Engine, Mixture, Move, Observation, OnNonFinite, ServerGradient
from .crossing import check_plan
from .mixing import mix_over_wire
from .moving import move_over_wire
from .observing import send_sums
from .processes import Processes, State
from .saved_state import get_state, set_structure
from .secure_mixing import SumRef, sum_in_process
from .sharing import share_over_wire


class Parties(nn.Module):
    """Clients and server; what a checkpoint calls their tensors is the same for every engine."""

    def __init__(self, clients: Mapping[int, Client], server: Server) -> None:
        super().__init__()
        self.clients = nn.ModuleDict({str(name): client for name, client in clients.items()})
        self.server = server


class LocalEngine(Engine):
    """Holds all parties, and passes between them over a wire what a round mixes and moves.

    Args:
        method: What is trained.
        networks: The full networks, from which every party gets copies of its blocks.
        plan: Cuts of all clients.
        shape: Shape of the samples.
        client_sizes: Training samples by client id.
        wire: What everything passes; None carries it unchanged.
        server_gradient: How clients count in the server's gradient.
        on_nonfinite: What happens where a client sends NaN, Inf or an explosion.
        seed: Of noise and all else that clients draw.
    """

    def __init__(
        self,
        method: Method,
        networks: Mapping[str, Network],
        plan: CutPlan,
        shape: SampleShape,
        client_sizes: Mapping[int, int],
        wire: Wire | None = None,
        server_gradient: ServerGradient = "uniform",
        on_nonfinite: OnNonFinite = "stop",
        seed: int = 0,
    ) -> None:
        check_plan(method, plan, networks)
        self.method = method
        self.networks = dict(networks)
        self.plan = plan
        self.shape = shape
        self.client_sizes = dict(client_sizes)
        self.wire = wire or MemoryWire()
        self.wire.kinds, self.wire.run_seed = method.kinds, seed
        self.server_gradient = server_gradient
        self.on_nonfinite = on_nonfinite
        self.seed = seed
        self.num_dropped = dict.fromkeys(plan.client_ids, 0)
        #: Beside the server's own, what is known of clients, and goes where they are trained.
        self.further_statistics: list[ActivationStatistics] = []
        self.processes = Processes()
        self._clients = self.make_clients()
        server = Server(plan, networks, method.averaged, method.observed)
        self.parties = Parties(self._clients, server)
        self.on_new_structure()

    #: Whether what it trains keeps records private, so that nothing else may tell of them.
    is_private = False

    def begin(self) -> None:
        """Refuse, before anything is trained, what cannot be done."""

    def figures(self) -> dict[str, float]:
        """Return what the engine has to say of the rounds so far, by column of metrics.csv."""
        return {}

    def is_spent(self) -> bool:
        """Return whether no further step may be made."""
        return False

    def make_clients(self) -> dict[int, Client]:
        """Return the clients that this process holds, by id: all of them."""
        averaged = self.method.averaged
        return {e.client_id: Client(e, self.networks, averaged) for e in self.plan.clients}

    @cached_property
    def example_inputs(self) -> dict[str, Carry]:
        """What enters every network, a batch of two."""
        return trace_inputs(self.method, self.networks, self.shape)

    @property
    def server(self) -> Server:
        """Return the server."""
        return self.parties.server

    @property
    def clusters(self) -> dict[int, int]:
        """Return the cluster of every client."""
        return self.server.clusters

    def client(self, client_id: int) -> Client:
        """Return one client."""
        return self._clients[client_id]

    def all_parties(self) -> dict[str, Party]:
        """Return every party of this process by its name in a checkpoint."""
        clients = {str(c): client for c, client in self._clients.items()}
        return {**clients, "server": self.server}

    def held_parties(self) -> dict[str, Party]:
        """Return the parties whose tensors this process has."""
        every = self.all_parties().items()
        return {n: p for n, p in every if n == SERVER or self.processes.holds(int(n))}

    def make_optimizers(self) -> None:
        """Give every party fresh optimisers, once the parameters are on their device."""
        for party in self.all_parties().values():
            party.make_optimizers(self.method)
        self.on_new_structure()

    def on_new_structure(self) -> None:
        """Forget what depends on who holds what; engines that keep something of it override."""

    # A step

    def choose_own(self, sizes: Mapping[int, int]) -> list[int]:
        """Return the clients of a step whose part this process runs.

        Args:
            sizes: Samples of every participant.
        """
        return list(sizes)

    def load_batches(self, batches: Batches, step: int) -> list[int]:
        """Hand every client its own batch and random streams; return who takes part."""
        rate_factor = self.method.rate_factor(step)
        for client_id, (samples, labels) in batches.items():
            self.client(client_id).begin_step(rate_factor)
            if self.client(client_id).shared is not None:
                stream = make_generator(self.seed, "shared samples", client_id, step)
                samples, labels = self.client(client_id).blend(samples, labels, stream)
            private = prepare_batch(self.method, client_id, samples, labels, self.seed, step)
            private |= self._draw(client_id, samples, step)
            self.client(client_id).load_batch(private, self.shape.num_classes)
        self.server.begin_step(rate_factor)
        return list(batches)

    def _draw(self, client_id: int, samples: Tensor, step: int) -> Mapping[str, Tensor]:
        """Let the server draw what it needs for a client's step; return what it sends of that."""

        def streams(purpose: str) -> torch.Generator:
            return make_generator(self.seed, purpose, step)

        ids = self.plan.client_ids
        place = ids.index(client_id)
        drawn = self.method.draw(place, len(ids), len(samples), streams, step)
        drawn = {name: tensor.to(samples.device) for name, tensor in drawn.items()}
        self.server.drawn[client_id] = drawn
        if not self.method.sent:
            return {}
        sent = {name: drawn[name] for name in self.method.sent}
        return self.wire.pass_on(Message(SERVER, client_id, "inputs", "drawn", sent))

    def commit_step(self, client_ids: Iterable[int]) -> None:
        """Close a step: add it to the statistics, drop private tensors."""
        self.server.statistics.fold()
        self.server.guard.commit_step()
        self.server.forget_runs()
        for client_id in client_ids:
            self.client(client_id).remember()
            self.client(client_id).clear_batch()

    def server_shares(self, client_ids: Iterable[int]) -> dict[int, float]:
        """Return each participant's share in the server's gradient; they sum to 1."""
        sizes = {c: self.client_sizes[c] for c in client_ids}
        if self.server_gradient == "uniform":
            return {c: 1.0 / len(sizes) for c in sizes}
        total = sum(sizes.values())
        return {c: size / total for c, size in sizes.items()}

    def update_averages(self, step: int, client_ids: Iterable[int]) -> None:
        """Let moving averages follow the trained blocks.

        Args:
            step: Number of the step.
            client_ids: Those who have trained; averages of others rest.
        """
        update_averages(self.method, [*map(self.client, client_ids), self.server], step)

    def total_bytes(self) -> int:
        """Return the bytes that all clients have sent and received, in whatever process."""
        counts = self.wire.traffic.num_bytes.items()
        own = sum(count for key, count in counts if self.processes.holds(key.client_id))
        return int(self.processes.add_up({0: torch.tensor(own)})[0])

    # A round

    def free_guests(self) -> None:
        """Free what this process has of other processes' clients."""

    def gather_clients(self) -> None:
        """Let this process have what drawing needs of all clients; engines of one always do."""

    def observe(self) -> Observation:
        """Return what the server has seen in the round so far."""
        statistics = self.server.statistics
        present = frozenset(statistics.client_ids)
        summary: ActivationSummary | None = None
        if present:
            summary = statistics.summarize(self.client_sizes)
        diverged = self.find_diverged()
        return Observation(summary, dict(self.clusters), self.client_sizes, present, diverged)

    def gather_sums(self, sums: ActivationStatistics) -> ActivationStatistics:
        """Let clients send the sums by which they are compared; return what the server has."""
        return send_sums(self, sums)

    def find_diverged(self) -> frozenset[int]:
        """Return the clients whose own blocks are not finite."""
        held = (c for c in self._clients if self.processes.holds(c))
        return frozenset(c for c in held if not self.client(c).is_finite())

    def mix(self, mixture: Mixture) -> None:
        """Close a round: take over clusters, average within them, begin new statistics."""
        mix_over_wire(self, mixture, self._average_apart(mixture))
        self.server.statistics.reset()
        self.on_new_structure()

    def _average_apart(self, mixture: Mixture) -> Mapping[SumRef, State] | None:
        """Return the means of clients' blocks, where these are not averaged in the clear."""
        if mixture.private is not None:
            return mixture.private.average_in_process(self, mixture)
        return sum_in_process(self, mixture) if mixture.is_secure else None

    def share(self, network: str, classes: Mapping[int, Sequence[int]], number: int) -> None:
        """Let clients show a network, and get samples of the others' (`share_over_wire`)."""
        share_over_wire(self, network, classes, number)

    def set_clusters(self, clusters: Mapping[int, int], per_cluster: Any = True) -> None:
        """Take over clusters and give each its copies of the server's blocks."""
        cloned_from = self.server.set_clusters(clusters, per_cluster)
        for optimizer in self.server.optimizers.values():
            copy_moments(optimizer, cloned_from)
        self.server.refresh_optimizers(self.method)
        self.on_new_structure()

    def apply_plan(self, plan: CutPlan) -> tuple[Move, ...]:
        """Move blocks between clients and server, with their optimiser state.

        A block that comes to a client is a copy of the server's that it used. A block that goes to
        the server becomes the server's if it has none, and is dropped if it has one: after a
        federation the two are equal. So every client keeps the network that it had. A new block
        that clusters share at the server is the mean of its users'.

        Args:
            plan: New cuts of the same clients and networks; meant for a round's boundary.
        """
        check_plan(self.method, plan, self.networks)
        moves = move_over_wire(self, plan)
        self.plan = plan
        self.on_new_structure()
        return moves

    def forget_moments_of(self, client_ids: Iterable[int]) -> None:
        """Drop the optimiser state of clients that have diverged."""
        for client_id in client_ids:
            self.client(client_id).forget_moments()

    # Drawing

    def block(
        self, network: str, client_id: int, index: int, holding: str = "trained"
    ) -> nn.Module:
        """Return the copy of a block that a client uses, its own or the server's."""
        own = getattr(self.client(client_id), holding).blocks(network)
        if index in own:
            return own[index]
        return getattr(self.server, holding).segment(network, client_id).block(index)

    def whole_network(self, network: str, client_id: int, holding: str = "trained") -> Network:
        """Return a client's whole network, its blocks and the server's, sharing their tensors.

        Args:
            network: Which.
            client_id: Whose.
            holding: "trained", or "average" for the moving averages.
        """
        indices = range(self.plan.num_blocks(network))
        return Network([self.block(network, client_id, index, holding) for index in indices])

    def sampling_network(self, network: str, client_id: int) -> Network:
        """Return the network that a client draws through: the averages where there are any."""
        return self.whole_network(network, client_id, self.sampling_holding(network))

    def sampling_holding(self, network: str) -> str:
        """Return which of its blocks a client draws through, as `whole_network` calls them."""
        return "average" if network in self.method.averaged else "trained"

    def forward_of(self, client_id: int, device: torch.device) -> Forward:
        """Return what runs a client's networks for drawing; it changes no state."""

        def run(name: str, inputs: Carry) -> Carry:
            return run_to_draw(self.sampling_network(name, client_id), inputs, device)

        return run

    def list_drawn(self) -> list[str]:
        """Return the names, in a checkpoint, of the parties' tensors through which clients draw."""
        starts = []
        for network in find_drawn(self.method, self.networks):
            holding = self.sampling_holding(network)
            starts.append(f"server.{holding}.{network}.")
            for end, client_id in product(("head", "tail"), self.plan.client_ids):
                starts.append(f"clients.{client_id}.{holding}.{network}_{end}.")
        return [name for name in self.parties.state_dict() if name.startswith(tuple(starts))]

    # Checkpoints

    def get_state(self) -> dict[str, Any]:
        """Return what is not in the parties' parameters, by party."""
        return get_state(self)

    def fetch_state(self) -> dict[str, Tensor]:
        """Return tensors of the parties that other processes have, by name in a checkpoint."""
        return {}

    def set_structure(self, state: Mapping[str, Any], may_join: bool = False) -> tuple[str, ...]:
        """Take over plan, clusters and counters, before parameters are loaded."""
        return set_structure(self, state, may_join)

    def set_optimizers(self, state: Mapping[str, Any]) -> None:
        """Go on from the optimisers' state of a checkpoint, once there are optimisers."""
        for name, party in self.held_parties().items():
            party.set_optimizer_state(state.get(name, {}))


def prepare_batch(
    method: Method, client_id: int, samples: Tensor, labels: Tensor, seed: int, step: int
) -> Carry:
    """Return what a client keeps private in a step; what it draws follows from seed and step."""

    def streams(purpose: str) -> torch.Generator:
        return make_generator(seed, purpose, client_id, step)

    return method.prepare(samples, labels, streams, step)
