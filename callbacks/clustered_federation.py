"""Periodic federation inside the clusters that the server finds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import HuscfError
from ..federation import (
    ActivationStatistics,
    ClusterRule,
    KMeansClusters,
    Place,
    Weighting,
    kl_from_others,
    locate_clients,
    make_features,
    match_labels,
    member_weights,
)
from ..modules import Moments, SplitGAN
from ..randomness import derive_seed


@dataclass(frozen=True)
class Assignment:
    """What a round decided.

    Args:
        clusters: Cluster of every client.
        divergences: KLD_k in nats of every client.
        weights: Weight of every client in its cluster's average.
        places: First two principal components of the features of every observed client.
    """

    clusters: dict[int, int]
    divergences: dict[int, float]
    weights: dict[int, float]
    places: dict[int, Place]


class ClusteredFederation(Callback):
    """Every few epochs: find clusters, weigh their members, average their blocks.

    Args:
        every_n_epochs: Length of a round in epochs.
        rule: How clusters are found; None is k-means with an estimated number of clusters.
        warmup_rounds: In so many first rounds everybody is averaged, as one cluster. 0 clusters
            from the first round on; the paper uses 2.
        weighting: "kld" (n_k * exp(-beta * KLD_k)), "samples" (n_k) or "uniform".
        beta: Strength of the divergence in "kld"; 0 makes it equal "samples".
        server: "cluster" keeps a copy of the server's blocks per cluster, "shared" one for all.
        moments: Adam's moments of averaged blocks: "keep", "average" or "reset".

    Attributes:
        assignment: What the last round decided; None before the first.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        rule: ClusterRule | None = None,
        warmup_rounds: int = 0,
        weighting: Weighting = "kld",
        beta: float = 1.0,
        server: Literal["cluster", "shared"] = "cluster",
        moments: Moments = "keep",
    ) -> None:
        if every_n_epochs < 1:
            raise HuscfError(f"federation.every_n_epochs is {every_n_epochs}, must be >= 1")
        self.every_n_epochs = every_n_epochs
        self.rule = rule or KMeansClusters()
        self.warmup_rounds = warmup_rounds
        self.weighting: Weighting = weighting
        self.beta = beta
        self.server = server
        self.moments: Moments = moments
        self.assignment: Assignment | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse cuts under which the server cannot compare clients."""
        assert isinstance(pl_module, SplitGAN)
        if self.rule.needs_features and pl_module.server.statistics.boundary is None:
            raise HuscfError(
                "federation: no boundary of the discriminator is at the server for all clients, so "
                "they cannot be compared: shorten the longest discriminator heads or tails"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, compute, apply, log."""
        assert isinstance(pl_module, SplitGAN)
        if not self.should_federate(trainer.current_epoch):
            return
        assignment = self.assignment = self.assign(pl_module)
        pl_module.federate(
            assignment.clusters, assignment.weights, self.server == "cluster", self.moments
        )
        pl_module.report("round", pl_module.num_rounds)
        for name, value in _summarize(assignment).items():
            pl_module.report(f"federation/{name}", value)
        domains = getattr(trainer.datamodule, "client_domains", None)  # type: ignore[attr-defined]
        if domains:
            pl_module.report("federation/ari", _rand_index(assignment.clusters, domains))

    def should_federate(self, epoch: int) -> bool:
        """Return whether a round ends with this epoch (0-based)."""
        return (epoch + 1) % self.every_n_epochs == 0

    def assign(self, module: SplitGAN) -> Assignment:
        """Find clusters and weights from what the server saw in the last epochs."""
        statistics = module.server.statistics
        features = _describe_clients(statistics)
        clusters = self._find_clusters(module, statistics.client_ids, features)
        divergences = _compare_members(statistics, clusters)
        # A client whose parameters are not finite counts nothing and receives the average.
        sizes = {c: n * module.client(c).is_finite() for c, n in module.client_sizes.items()}
        weights = member_weights(sizes, clusters, divergences, self.weighting, self.beta)
        places = {} if features is None else locate_clients(statistics.client_ids, features)
        return Assignment(clusters, divergences, weights, places)

    def _find_clusters(
        self, module: SplitGAN, observed: list[int], features: np.ndarray | None
    ) -> dict[int, int]:
        previous = module.clusters
        if module.num_rounds < self.warmup_rounds:
            return dict.fromkeys(previous, 0)
        seed = derive_seed(module.seed, "clusters", module.num_rounds)
        if not self.rule.needs_features:
            found = self.rule.assign(np.zeros((len(previous), 0)), seed)
            return dict(zip(previous, found.tolist(), strict=True))
        if features is None:
            return dict(previous)
        found = self.rule.assign(features, seed)
        matched = match_labels(dict(zip(observed, found.tolist(), strict=True)), previous)
        # Clients that the server saw nothing of stay where they were, if that still exists.
        count = max(matched.values()) + 1
        return {c: matched.get(c, min(previous[c], count - 1)) for c in previous}


def _describe_clients(statistics: ActivationStatistics) -> np.ndarray | None:
    """Return the observed clients' features; None with fewer than two, or where one diverged."""
    if len(statistics.client_ids) < 2:
        return None
    maps = statistics.features().double().numpy()
    return make_features(maps) if np.isfinite(maps).all() else None


def _compare_members(
    statistics: ActivationStatistics, clusters: dict[int, int]
) -> dict[int, float]:
    observed = statistics.client_ids
    if not observed:
        return {}
    labels = np.array([clusters[c] for c in observed])
    values = kl_from_others(statistics.distributions().double().numpy(), labels)
    return dict(zip(observed, values.tolist(), strict=True))


def _summarize(assignment: Assignment) -> dict[str, float]:
    weights = list(assignment.weights.values())
    return {
        "num_clusters": max(assignment.clusters.values()) + 1,
        "min_weight": min(weights),
        "max_weight": max(weights),
        "mean_kld": float(np.mean(list(assignment.divergences.values()) or [0.0])),
    }


def _rand_index(clusters: dict[int, int], domains: dict[int, str]) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(
        adjusted_rand_score([domains[c] for c in clusters], [clusters[c] for c in clusters])
    )
