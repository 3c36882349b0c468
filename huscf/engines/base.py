"""What every engine does with a method's phases; how it does it is its own matter."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..federation import ActivationSummary
from ..methods import Average
from ..parties import PerCluster
from ..split import CutPlan

if TYPE_CHECKING:
    from .private import PrivateAverages

OnNonFinite = Literal["stop", "drop"]
ServerGradient = Literal["uniform", "samples"]
Moments = Literal["keep", "average", "reset"]

#: Samples (B, C, H, W) uint8 and labels (B,) int64 by client id.
Batches = Mapping[int, tuple[Tensor, Tensor]]


class ClientBatch(NamedTuple):
    """One client's batch of one step.

    Args:
        samples: (B, C, H, W) uint8.
        labels: (B,) int64.
    """

    samples: Tensor
    labels: Tensor


class LazyBatches(Mapping[int, ClientBatch]):
    """A step's batches, each put together when it is first asked for.

    So a process reads the samples of those clients alone that it trains.

    Args:
        sizes: Samples of each client.
        take: Puts together a client's batch.
    """

    def __init__(
        self, sizes: Mapping[int, int], take: Callable[[int], tuple[Tensor, Tensor]]
    ) -> None:
        self.sizes = dict(sizes)
        self._take = take
        self._device: torch.device | None = None
        self._taken: dict[int, ClientBatch] = {}

    def __getitem__(self, client_id: int) -> ClientBatch:
        if client_id not in self.sizes:
            raise KeyError(client_id)
        if client_id not in self._taken:
            batch = self._take(client_id)
            if self._device is not None:
                batch = batch[0].to(self._device), batch[1].to(self._device)
            self._taken[client_id] = ClientBatch(*batch)
        return self._taken[client_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device) -> "LazyBatches":
        """Put batches on a device from now on; Lightning calls it before a step."""
        self._device = device
        return self


def count_samples(batches: Batches) -> dict[int, int]:
    """Return how many samples each client's batch has, without putting it together."""
    if isinstance(batches, LazyBatches):
        return dict(batches.sizes)
    return {client_id: len(labels) for client_id, (_, labels) in batches.items()}


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Args:
        losses: Mean over the clients that took part, by phase; NaN where none was left.
        dropped: Clients left out because they sent NaN, Inf or an explosion.
    """

    losses: dict[str, float]
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mixture:
    """What is averaged at a round's end.

    Args:
        clusters: Cluster of every client, 0..k-1.
        weights: Weight of every client; those of a cluster sum to 1.
        per_cluster: The server's blocks that every cluster has its own copy of: all, none, or
            those listed by network.
        moments: What happens to the moments of averaged blocks: "keep" each copy's own,
            "average" them like the parameters, or "reset" them to those of a first step.
        givers: Networks that are not averaged: network -> client -> whose blocks it goes on with,
            its own or those that another sends it.
        averages: Networks that are averaged otherwise than `clusters` and `weights` say.
        is_secure: Whether the server learns of the clients' blocks the sums over clusters alone.
        private: Averages the clients' blocks so that single clients are hidden; it counts the
            members of a cluster alike. None averages them plainly.
    """

    clusters: Mapping[int, int]
    weights: Mapping[int, float]
    per_cluster: PerCluster = True
    moments: Moments = "keep"
    givers: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    averages: Mapping[str, Average] = field(default_factory=dict)
    is_secure: bool = False
    private: "PrivateAverages | None" = None

    def average_of(self, network: str) -> Average:
        """Return how a network is averaged."""
        return self.averages.get(network, Average(self.clusters, self.weights))


def block_topic(network: str, holding: str) -> str:
    """Return what a message that carries a block says it is about."""
    return network if holding == "trained" else f"{network} average"


@dataclass(frozen=True)
class Move:
    """One block that has changed hands.

    Args:
        client_id: The client.
        network: Which network.
        block: Index of the block.
        direction: "uplink" from the client to the server, "downlink" from the server.
        num_bytes: What was sent for it.
    """

    client_id: int
    network: str
    block: int
    direction: Literal["uplink", "downlink"]
    num_bytes: int


@dataclass(frozen=True)
class Observation:
    """What the server knows at a round's end.

    Args:
        summary: Of the activations that it saw; None where there are too few to compare.
        clusters: Present cluster of every client.
        sizes: Training samples of every client.
        present: Clients that the server has seen in the round.
        diverged: Clients whose own blocks are not finite.
    """

    summary: ActivationSummary | None
    clusters: dict[int, int]
    sizes: dict[int, int]
    present: frozenset[int]
    diverged: frozenset[int] = field(default_factory=frozenset)


class Engine(ABC):
    """Runs a method's phases over parties. Every engine gives what SerialEngine gives."""

    @abstractmethod
    def run_step(self, batches: Batches, step: int) -> StepResult:
        """Run all phases of a step for the clients that have a batch."""

    @abstractmethod
    def observe(self) -> Observation:
        """Return what the server has seen in the round so far."""

    @abstractmethod
    def mix(self, mixture: Mixture) -> None:
        """Close a round: take over clusters, average within them, begin new statistics."""

    @abstractmethod
    def apply_plan(self, plan: CutPlan) -> tuple[Move, ...]:
        """Move blocks between clients and server, with their optimiser state."""

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """Return what is not in the parties' parameters, by party, for any engine to go on."""

    @abstractmethod
    def set_structure(self, state: Mapping[str, Any], may_join: bool = False) -> tuple[str, ...]:
        """Take over plan, clusters and counters of `get_state`, before parameters are loaded.

        Args:
            state: Of any engine.
            may_join: Whether there may be clients here that it does not know.

        Returns:
            How the names of the tensors begin that it lacks for that.
        """
