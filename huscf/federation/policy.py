"""What a round's end decides, as values: what the server knows goes in, a decision comes out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import check_complete
from .embedding import Point2D
from .memory import pack, unpack
from .statistics import ActivationSummary


@dataclass(frozen=True)
class RoundView:
    """What the server knows when a round ends.

    Args:
        number: The round, from 0.
        seed: The run's.
        sizes: Training samples n_k of every client, absent ones too.
        clusters: Cluster of every client so far.
        summary: What the server observed in the round; None where it observed nobody.
        diverged: Clients whose blocks are not finite.
        label_counts: Samples of each class that a client says it has, where the policy asks.
        updates: (P,) what the round has changed in the compared blocks of every client that
            trained, where the policy asks.
    """

    number: int
    seed: int
    sizes: Mapping[int, int]
    clusters: Mapping[int, int]
    summary: ActivationSummary | None = None
    diverged: frozenset[int] = frozenset()
    label_counts: Mapping[int, Sequence[int]] = field(default_factory=dict)
    updates: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def client_ids(self) -> list[int]:
        """Return all clients, in order."""
        return list(self.clusters)

    @property
    def present(self) -> list[int]:
        """Return the clients that were observed, ascending."""
        return [] if self.summary is None else self.summary.client_ids


@dataclass(frozen=True)
class PolicyMemory:
    """What a policy remembers from one round to the next.

    Args:
        placed: Clients that have a cluster of their domain.
        compared: Clients that were compared in the last round in which any were.
        last_seen: Round in which each client was last observed; who has left is not in it.
        loud: Clients whose last observation was no honest client's.
        known: Positions of clients, of one frame; see ActivationSummary.
    """

    placed: frozenset[int] = frozenset()
    compared: frozenset[int] = frozenset()
    last_seen: Mapping[int, int] = field(default_factory=dict)
    loud: frozenset[int] = frozenset()
    known: ActivationSummary | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain values, and positions as tensors."""
        return {
            "placed": sorted(self.placed),
            "compared": sorted(self.compared),
            "last_seen": dict(self.last_seen),
            "loud": sorted(self.loud),
            "known": pack(self.known),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "PolicyMemory":
        """Return what `state_dict` has made plain."""
        check_complete(state, cls().state_dict())
        return cls(
            frozenset(state["placed"]),
            frozenset(state["compared"]),
            dict(state["last_seen"]),
            frozenset(state["loud"]),
            unpack(state["known"]),
        )


@dataclass(frozen=True)
class RoundDecision:
    """What a round decides.

    Args:
        clusters: Cluster of every client, 0..k-1. Each loud client has one of its own, and those
            that were never observed share the last one.
        weights: Weight of every client in its cluster's average.
        divergences: KLD_k in nats of every client whose position is known.
        embedding_2d: First two principal coordinates of the features of every client whose
            position is known.
        memory: What the next round's decision needs of this one.
        loud: Clients that are set apart, since no honest client sends what they have sent.
        unplaced: Clients that were never observed.
    """

    clusters: dict[int, int]
    weights: dict[int, float]
    divergences: dict[int, float] = field(default_factory=dict)
    embedding_2d: dict[int, Point2D] = field(default_factory=dict)
    memory: PolicyMemory = field(default_factory=PolicyMemory)
    loud: frozenset[int] = frozenset()
    unplaced: frozenset[int] = frozenset()

    @property
    def placed_clusters(self) -> dict[int, int]:
        """Return the clusters of the clients that were observed at least once."""
        return {c: cluster for c, cluster in self.clusters.items() if c not in self.unplaced}

    def figures(self) -> dict[str, float]:
        """Return the round's figures by name, as they are logged."""
        weights = self.weights.values()
        return {
            "num_clusters": len(set(self.placed_clusters.values())),
            "num_placed": len(self.placed_clusters),
            "num_loud": len(self.loud),
            "min_weight": min(weights),
            "max_weight": max(weights),
            "mean_kld": float(np.mean(list(self.divergences.values()) or [0.0])),
        }


class FederationPolicy(ABC):
    """Decides who is averaged with whom, and how much each counts; holds options, no state."""

    @property
    def needs_features(self) -> bool:
        """Return whether decisions depend on what the server observes."""
        return True

    @property
    def needs_labels(self) -> bool:
        """Return whether decisions depend on how many samples of each class clients have."""
        return False

    @property
    def needs_updates(self) -> bool:
        """Return whether decisions depend on what a round has changed in clients' blocks."""
        return False

    @property
    def lets_choose(self) -> bool:
        """Return whether clients choose their clusters themselves, when a round begins."""
        return False

    def first_clusters(self, client_ids: Sequence[int], seed: int) -> dict[int, int] | None:
        """Return clusters to begin the first round with; None for one of all."""
        return None

    @abstractmethod
    def decide(self, view: RoundView, memory: PolicyMemory) -> RoundDecision:
        """Return clusters and weights of a round that has ended."""
