"""Periodic federation inside the clusters that the server finds."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import HuscfError, check_complete
from ..federation import (
    ActivationSummary,
    ClusterRule,
    Divergence,
    KMeansClusters,
    Place,
    Weighting,
    WeightRule,
    as_array,
    describe_clients,
    gaussian_divergences,
    keep_unless_better,
    locate_clients,
    match_labels,
    member_weights,
    place_clients,
    position_divergences,
)
from ..modules import Moments, PerCluster, SplitGAN
from ..randomness import derive_seed
from ..split import NETWORK_NAMES, CutPlan, NetworkName
from .rounds import is_last_epoch
from .run_folder import RunFolder

ServerCopies = Literal["cluster", "shared"] | dict[NetworkName, list[int]]


@dataclass(frozen=True)
class Assignment:
    """What a round decided.

    Args:
        clusters: Cluster of every client.
        divergences: KLD_k in nats of every observed client.
        weights: Weight of every client in its cluster's average.
        places: First two principal coordinates of the features of every observed client.
    """

    clusters: dict[int, int]
    divergences: dict[int, float]
    weights: dict[int, float]
    places: dict[int, Place]


class ClusteredFederation(Callback):
    """Every few epochs: find clusters, weigh their members, average their blocks.

    Args:
        every_n_epochs: Length of a round in epochs. The end of training ends a round too.
        rule: How clusters are found: one of huscf.federation's rules, or a function of features
            (N, D) and a seed that returns N labels. None is k-means with an estimated number.
        recluster_every_n_rounds: In the rounds between, only clients that have come or returned
            are placed, into the cluster with the nearest centre.
        stability: The clusters of the last round are kept unless the mean silhouette of new ones
            is higher by this; where they only divide old ones, it may be lower by as much. They
            become one only where theirs is lower by as much than several clusters must have.
        warmup_rounds: In so many first rounds everybody is averaged, as one cluster. 0 clusters
            from the first round on; the paper uses 2.
        half_life: Steps after which a batch counts half in the features; 0 counts all of a round
            alike (huscf.federation.ActivationStatistics).
        weighting: "kld" (n_k ** size_exponent * exp(-beta * KLD_k)), "samples" (n_k), "uniform",
            or a function of n_k and KLD_k, arrays (N,), that returns N numbers.
        divergence: What KLD_k compares: "gaussian" fits to activations, or the softmax over
            "positions" of mean activations, as the paper does.
        beta: Strength of the divergence in "kld"; the paper has 1. 0, since under label skew
            the member that differs most holds the classes that the others lack.
        size_exponent: Strength of the number of samples in "kld"; the paper has 1. All clients
            take equally many steps, so that those with many samples have not trained longer.
        server: "cluster" keeps a copy of the server's blocks per cluster, "shared" one for all;
            {"discriminator": [3]} keeps copies of those blocks, counted from 0, and shares the
            others.
        moments: Adam's moments of averaged blocks: "keep", "average" or "reset".

    Attributes:
        assignment: What the last round decided; None before the first.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        rule: ClusterRule | None = None,
        recluster_every_n_rounds: int = 1,
        stability: float = 0.05,
        warmup_rounds: int = 0,
        half_life: float = 4.0,
        weighting: Weighting | WeightRule = "kld",
        divergence: Divergence = "gaussian",
        beta: float = 0.0,
        size_exponent: float = 0.5,
        server: ServerCopies = "cluster",
        moments: Moments = "keep",
    ) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("recluster_every_n_rounds", recluster_every_n_rounds, 1),
            ("warmup_rounds", warmup_rounds, 0),
            ("half_life", half_life, 0),
            ("stability", stability, 0),
        ):
            if not value >= least:
                raise HuscfError(f"federation.{name} is {value}, must be >= {least}")
        for name, value in (("beta", beta), ("size_exponent", size_exponent)):
            if not math.isfinite(value):
                raise HuscfError(f"federation.{name} is {value}, must be finite")
        if rule is not None:
            _check_takes("rule", rule, "features, seed")
        if callable(weighting):
            _check_takes("weighting", weighting, "num_samples, divergences")
        self.every_n_epochs = every_n_epochs
        self.rule = rule or KMeansClusters()
        self.recluster_every_n_rounds = recluster_every_n_rounds
        self.stability = stability
        self.warmup_rounds = warmup_rounds
        self.half_life = half_life
        self.weighting = weighting
        self.divergence = divergence
        self.beta = beta
        self.size_exponent = size_exponent
        self.server = server
        self.moments: Moments = moments
        self.assignment: Assignment | None = None
        self._present: set[int] = set()
        self._placed: set[int] = set()

    @property
    def needs_features(self) -> bool:
        """Return whether the rule looks at the features' values."""
        return getattr(self.rule, "needs_features", True)

    @property
    def per_cluster(self) -> PerCluster:
        """Return which of the server's blocks every cluster has a copy of."""
        return self.server if isinstance(self.server, dict) else self.server == "cluster"

    def state_dict(self) -> dict[str, Any]:
        """Return which clients were compared in the last round, and which ever."""
        return {"present": sorted(self._present), "placed": sorted(self._placed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        check_complete(state_dict, self.state_dict())
        self._present = set(state_dict["present"])
        self._placed = set(state_dict["placed"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse an order of callbacks in which a round's row lacks its federation."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(c, RunFolder) for c in callbacks[: callbacks.index(self)]):
            raise HuscfError("the trainer's callbacks need RunFolder after ClusteredFederation")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse cuts under which the server cannot compare clients, and blocks it cannot copy."""
        assert isinstance(pl_module, SplitGAN)
        _check_server_blocks(self.server, pl_module.plan)
        pl_module.server.statistics.half_life = self.half_life
        if self.needs_features and pl_module.server.statistics.boundary is None:
            raise HuscfError(
                "federation: no boundary of the discriminator is at the server for all clients, so "
                "they cannot be compared: shorten the longest discriminator heads or tails"
            )
        self.begin(pl_module)

    def begin(self, module: SplitGAN) -> None:
        """Before the first step, part clients whom the rule parts whatever they send."""
        if module.num_rounds == 0 and not (self.needs_features or self.warmup_rounds):
            module.set_clusters(self._find_clusters(module, [], np.zeros((0, 1))), self.per_cluster)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, compute, apply, log."""
        assert isinstance(pl_module, SplitGAN)
        if not (self.should_federate(trainer.current_epoch) or is_last_epoch(trainer)):
            return
        assignment = self.assignment = self.assign(pl_module)
        self.apply(pl_module, assignment)
        pl_module.report("round", pl_module.num_rounds)
        for name, value in _summarize(assignment).items():
            pl_module.report(f"federation/{name}", value)
        domains = getattr(trainer.datamodule, "client_domains", None)  # type: ignore[attr-defined]
        if domains:
            pl_module.report("federation/ari", rand_index(assignment.clusters, domains))

    def should_federate(self, epoch: int) -> bool:
        """Return whether a round ends with this epoch (0-based)."""
        return (epoch + 1) % self.every_n_epochs == 0

    def assign(self, module: SplitGAN) -> Assignment:
        """Find clusters and weights from what the server saw in the round."""
        statistics = module.server.statistics
        # Of a single client, or where squares overflow, nothing can be compared.
        present = set(statistics.client_ids)
        summary = statistics.summarize(module.client_sizes) if len(present) > 1 else None
        if summary is not None and not np.isfinite(summary.covariance).all():
            summary = None
        observed = [] if summary is None else summary.client_ids
        features = np.zeros((0, 1)) if summary is None else describe_clients(summary)
        clusters = self._find_clusters(module, observed, features)
        divergences = self._compare_members(summary, features, clusters)
        # Who has sent nothing, or has diverged, counts nothing and receives the average.
        sizes = {
            client: size * (client in present or not present) * module.client(client).is_finite()
            for client, size in module.client_sizes.items()
        }
        weights = member_weights(
            sizes, clusters, divergences, self.weighting, self.beta, self.size_exponent
        )
        return Assignment(clusters, divergences, weights, locate_clients(observed, features))

    def apply(self, module: SplitGAN, assignment: Assignment) -> None:
        """Average within the clusters, and begin a new round."""
        module.federate(assignment.clusters, assignment.weights, self.per_cluster, self.moments)

    def _find_clusters(
        self, module: SplitGAN, observed: list[int], features: np.ndarray
    ) -> dict[int, int]:
        previous = module.clusters
        round_number = module.num_rounds
        if round_number < self.warmup_rounds:
            return dict.fromkeys(previous, 0)
        seed = derive_seed(module.seed, "clusters", round_number)
        if not self.needs_features:
            labels = self._ask_rule(np.zeros((len(previous), 0)), seed)
            return dict(zip(previous, labels.tolist(), strict=True))
        if not observed:
            return dict(previous)
        before = np.array([previous[client] for client in observed])
        is_placed = self._have_places(observed, previous)
        is_due = (round_number - self.warmup_rounds) % self.recluster_every_n_rounds == 0
        if is_due or not is_placed.any():
            labels = self._ask_rule(features, seed)
            if is_placed.any():
                kept = place_clients(features, before, is_placed)
                labels = keep_unless_better(self.rule, features, labels, kept, self.stability)
        else:
            labels = place_clients(features, before, is_placed)
        self._present = set(observed)
        self._placed |= self._present
        return match_labels(dict(zip(observed, labels.tolist(), strict=True)), previous)

    def _have_places(self, clients: list[int], previous: Mapping[int, int]) -> np.ndarray:
        """Return, (N,) bool, which clients stay where they are; others go to the nearest centre.

        One that returns stays where nobody of its cluster was compared in the last round.
        """
        compared = {previous[client] for client in self._present}
        staying = self._present | {c for c in self._placed if previous[c] not in compared}
        return np.array([client in staying for client in clients])

    def _ask_rule(self, features: np.ndarray, seed: int) -> np.ndarray:
        labels = as_array("federation.rule", self.rule(features, seed))
        if labels.shape != (len(features),) or labels.dtype.kind not in "iub":
            raise HuscfError(
                f"federation.rule must return {len(features)} integer labels, one per client; it "
                f"returned {labels.dtype} of shape {labels.shape}"
            )
        return np.unique(labels, return_inverse=True)[1]

    def _compare_members(
        self, summary: ActivationSummary | None, features: np.ndarray, clusters: dict[int, int]
    ) -> dict[int, float]:
        if summary is None:
            return {}
        labels = np.array([clusters[client] for client in summary.client_ids])
        if self.divergence == "gaussian":
            values = gaussian_divergences(features, labels)
        else:
            values = position_divergences(summary.maps, labels)
        return dict(zip(summary.client_ids, values.tolist(), strict=True))


def _check_takes(option: str, function: Callable, arguments: str) -> None:
    """Refuse a function of the user's that cannot be called with two arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function that is not written in Python
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise HuscfError(f"federation.{option} is called with {arguments}: {error}") from error


def _check_server_blocks(server: ServerCopies, plan: CutPlan) -> None:
    """Refuse blocks that no cut leaves to the server: the first, the last, and those beyond."""
    for network, indices in server.items() if isinstance(server, dict) else ():
        if network not in NETWORK_NAMES:
            raise HuscfError(
                f"federation.server: no network {network!r}; there are {', '.join(NETWORK_NAMES)}"
            )
        last = plan.num_blocks(network) - 2
        for index in indices:
            if not 1 <= index <= last:
                raise HuscfError(
                    f"federation.server: the {network} has no server block {index}; "
                    f"blocks count from 0, and 1 to {last} can be at the server"
                )


def _summarize(assignment: Assignment) -> dict[str, float]:
    weights = list(assignment.weights.values())
    return {
        "num_clusters": max(assignment.clusters.values()) + 1,
        "min_weight": min(weights),
        "max_weight": max(weights),
        "mean_kld": float(np.mean(list(assignment.divergences.values()) or [0.0])),
    }


def rand_index(clusters: dict[int, int], domains: dict[int, str]) -> float:
    """Return the adjusted Rand index of clusters with the true domains, by client."""
    from sklearn.metrics import adjusted_rand_score

    return float(
        adjusted_rand_score([domains[c] for c in clusters], [clusters[c] for c in clusters])
    )
