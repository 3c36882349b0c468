"""The policy of clustered federation: find clusters, weigh members."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..errors import HuscfError
from ..randomness import derive_seed
from .clusters import (
    ClusterRule,
    assign_to_nearest,
    keep_unless_better,
    match_labels,
)
from .embedding import embed_2d
from .features import describe_clients
from .memory import find_loud, remember
from .merging import MergedClusters
from .policy import FederationPolicy, PolicyMemory, RoundDecision, RoundView
from .statistics import ActivationSummary
from .weights import (
    Divergence,
    Weighting,
    WeightRule,
    as_array,
    gaussian_divergences,
    member_weights,
    position_divergences,
)


class ClusteredPolicy(FederationPolicy):
    """Finds clusters in what the server observed, and weighs their members.

    Args:
        rule: How clusters are found: one of huscf.federation's rules, or a function of features
            (N, D) and a seed that returns N labels. None is MergedClusters. One with a true
            attribute needs_updates gets what a round has changed in clients' blocks, (N, P), and
            the last clusters, (N,), instead.
        recluster_every_n_rounds: In the rounds between, only clients that have come or returned
            are placed, into the cluster with the nearest centre.
        stability: The clusters of the last round are kept unless the mean silhouette of new ones
            is higher by this; where they only divide old ones, it may be lower by as much. They
            merge into one only below the rule's min_silhouette less this. MergedClusters has
            its own hysteresis instead.
        warmup_rounds: In so many first rounds everybody is averaged, as one cluster. 0 clusters
            from the first round on; the paper uses 2.
        weighting: "kld" (n_k ** size_exponent * exp(-beta * KLD_k)), "samples" (n_k), "uniform",
            or a function of n_k and KLD_k, arrays (N,), that returns N numbers. One with a true
            attribute needs_labels gets n_k, label counts (N, C) and a seed instead.
        divergence: What KLD_k compares: "gaussian" fits to activations, or the softmax over
            "positions" of mean activations, as the paper does.
        beta: Strength of the divergence in "kld"; the paper has 1. 0, since under label skew
            the member that differs most holds the classes that the others lack.
        size_exponent: Strength of the number of samples in "kld"; the paper has 1. All clients
            take equally many steps, so that those with many samples have not trained longer.
        forget_after_rounds: A client that was away for so many rounds is forgotten; when it
            returns it is placed anew.
    """

    def __init__(
        self,
        rule: ClusterRule | None = None,
        recluster_every_n_rounds: int = 1,
        stability: float = 0.05,
        warmup_rounds: int = 0,
        weighting: Weighting | WeightRule = "kld",
        divergence: Divergence = "gaussian",
        beta: float = 0.0,
        size_exponent: float = 0.5,
        forget_after_rounds: int = 200,
    ) -> None:
        for name, value, least in (
            ("forget_after_rounds", forget_after_rounds, 1),
            ("recluster_every_n_rounds", recluster_every_n_rounds, 1),
            ("warmup_rounds", warmup_rounds, 0),
            ("stability", stability, 0),
        ):
            if not value >= least:
                raise HuscfError(f"federation.{name} is {value}, must be >= {least}")
        for name, number in (("beta", beta), ("size_exponent", size_exponent)):
            if not math.isfinite(number):
                raise HuscfError(f"federation.{name} is {number}, must be finite")
        if rule is not None and not isinstance(rule, MergedClusters):
            needed = ("features, seed", "updates, previous")
            _check_takes("rule", rule, needed[_has(rule, "needs_updates")])
        if callable(weighting):
            needed = ("num_samples, divergences", "num_samples, label_counts, seed")
            _check_takes("weighting", weighting, needed[_has(weighting, "needs_labels")])
        self.rule = rule or MergedClusters()
        self.recluster_every_n_rounds = recluster_every_n_rounds
        self.stability = stability
        self.warmup_rounds = warmup_rounds
        self.weighting = weighting
        self.divergence = divergence
        self.beta = beta
        self.size_exponent = size_exponent
        self.forget_after_rounds = forget_after_rounds

    @property
    def needs_features(self) -> bool:
        """Return whether the rule looks at the features' values."""
        return getattr(self.rule, "needs_features", True)

    @property
    def needs_labels(self) -> bool:
        """Return whether the weight rule asks for counts of labels."""
        return _has(self.weighting, "needs_labels")

    @property
    def needs_updates(self) -> bool:
        """Return whether the cluster rule compares what rounds change."""
        return _has(self.rule, "needs_updates")

    @property
    def lets_choose(self) -> bool:
        """Return whether the cluster rule leaves the choice to clients."""
        return _has(self.rule, "lets_choose")

    def first_clusters(self, client_ids: Sequence[int], seed: int) -> dict[int, int] | None:
        """Return the clusters of a rule that needs no features, else None."""
        if self.needs_features or self.needs_updates or self.warmup_rounds:
            return None
        return self._ask_without_features(client_ids, derive_seed(seed, "clusters", 0))

    def decide(self, view: RoundView, memory: PolicyMemory) -> RoundDecision:
        """Set loud clients apart, find clusters, weigh members."""
        loud, known = _listen(view, memory)
        features = np.zeros((0, 1)) if known is None else describe_clients(known)
        found = self.find_clusters(view, known, features, memory)
        memory = self._remember(view, memory, known, loud, found)
        clusters, unplaced = self._arrange(view, memory, found)
        divergences = self.compare_members(view, known, features, clusters)
        return RoundDecision(
            clusters,
            self.weigh_members(view, clusters, divergences),
            divergences,
            {} if known is None else embed_2d(known.client_ids, features),
            memory,
            memory.loud,
            unplaced,
        )

    def find_clusters(
        self,
        view: RoundView,
        known: ActivationSummary | None,
        features: np.ndarray,
        memory: PolicyMemory,
    ) -> dict[int, int]:
        """Return the clusters that were found, of the clients that have one.

        Args:
            view: The round.
            known: Clients that can be compared.
            features: (N, D) of these, from `describe_clients`.
            memory: Of the last round.
        """
        if view.number < self.warmup_rounds:
            return dict.fromkeys(view.clusters, 0)
        if self.needs_updates:
            return self._divide_by_updates(view)
        if self.lets_choose and len(set(view.clusters.values())) > 1:
            return dict(view.clusters)  # which clients have chosen
        seed = derive_seed(view.seed, "clusters", view.number)
        if not self.needs_features:
            return self._ask_without_features(view.client_ids, seed)
        previous = {c: view.clusters[c] for c in view.clusters if c in memory.placed}
        if known is None:
            return previous
        clients = known.client_ids
        is_staying = _find_staying(clients, previous, memory)
        before = np.array([previous.get(client, -1) for client in clients])
        if not self._is_due(view) and is_staying.any():
            labels = assign_to_nearest(features, before, is_staying)
        elif isinstance(self.rule, MergedClusters):
            labels = self.rule(known, before)
        else:
            labels = self._ask_rule(features, seed)
            if is_staying.any():
                kept = assign_to_nearest(features, before, is_staying)
                labels = keep_unless_better(self.rule, features, labels, kept, self.stability)
        return match_labels(dict(zip(clients, labels.tolist(), strict=True)), previous)

    def compare_members(
        self,
        view: RoundView,
        known: ActivationSummary | None,
        features: np.ndarray,
        clusters: Mapping[int, int],
    ) -> dict[int, float]:
        """Return KLD_k in nats of every client that can be compared with its fellow members."""
        compared = view.summary if self.divergence == "positions" else known
        if compared is None:
            return {}
        labels = np.array([clusters[client] for client in compared.client_ids])
        if self.divergence == "gaussian":
            values = gaussian_divergences(features, labels)
        else:
            values = position_divergences(compared.maps, labels)
        return dict(zip(compared.client_ids, values.tolist(), strict=True))

    def weigh_members(
        self, view: RoundView, clusters: Mapping[int, int], divergences: Mapping[int, float]
    ) -> dict[int, float]:
        """Return weights; a client that sent nothing or diverged counts 0 and gets the average."""
        silent = set(view.sizes) - set(view.present) if view.present else set()
        sizes = {
            client: 0 if client in silent | view.diverged else size
            for client, size in view.sizes.items()
        }
        weighting = self.weighting
        if callable(weighting) and self.needs_labels:
            table = np.array([view.label_counts[client] for client in clusters])
            seed = derive_seed(view.seed, "weights", view.number)
            weighting = partial(_ask_by_labels, weighting, table, seed)
        return member_weights(
            sizes, clusters, divergences, weighting, self.beta, self.size_exponent
        )

    def _remember(
        self,
        view: RoundView,
        memory: PolicyMemory,
        known: ActivationSummary | None,
        loud: frozenset[int],
        found: Mapping[int, int],
    ) -> PolicyMemory:
        """Return the memory after the round; who left, or was away too long, is not in it."""
        last_seen = {
            client: number
            for client, number in {
                **memory.last_seen,
                **dict.fromkeys(view.present, view.number),
            }.items()
            if client in view.clusters and view.number - number < self.forget_after_rounds
        }
        loud &= last_seen.keys()
        if known is None or view.number < self.warmup_rounds:
            placed, compared = memory.placed, memory.compared
        else:
            placed, compared = memory.placed | found.keys(), frozenset(known.client_ids)
        remembered = [c for c in known.client_ids if c in last_seen] if known else []
        return PolicyMemory(
            (placed & last_seen.keys()) - loud,
            compared,
            last_seen,
            loud,
            known.select(remembered) if known and known.frame and remembered else None,
        )

    def _arrange(
        self, view: RoundView, memory: PolicyMemory, found: Mapping[int, int]
    ) -> tuple[dict[int, int], frozenset[int]]:
        """Return the cluster of every client, and who has none of its domain yet.

        Loud clients have a cluster each, so that nobody is averaged with them.
        """
        is_apart = not self.needs_features or view.number < self.warmup_rounds
        if is_apart or (not view.present and not memory.placed):
            return dict(found) if is_apart else dict(view.clusters), frozenset()
        placed = {c: cluster for c, cluster in found.items() if c in memory.placed}
        names = {old: new for new, old in enumerate(sorted(set(placed.values())))}
        clusters = {c: names[cluster] for c, cluster in placed.items()}
        for client in sorted(memory.loud):
            clusters[client] = len(set(clusters.values()))
        unplaced = frozenset(view.clusters) - clusters.keys()
        clusters |= dict.fromkeys(sorted(unplaced), len(set(clusters.values())))
        return dict(sorted(clusters.items())), unplaced

    def _is_due(self, view: RoundView) -> bool:
        return (view.number - self.warmup_rounds) % self.recluster_every_n_rounds == 0

    def _divide_by_updates(self, view: RoundView) -> dict[int, int]:
        """Return the clusters of a rule that compares updates; who has none stays."""
        clients = list(view.updates)
        if not clients or not self._is_due(view):
            return dict(view.clusters)
        before = np.array([view.clusters[client] for client in clients])
        updates = np.stack([view.updates[client] for client in clients])
        labels = self._ask_rule(updates, before)
        return match_labels(dict(zip(clients, labels.tolist(), strict=True)), view.clusters)

    def _ask_without_features(self, client_ids: Sequence[int], seed: int) -> dict[int, int]:
        labels = self._ask_rule(np.zeros((len(client_ids), 0)), seed)
        return dict(zip(client_ids, labels.tolist(), strict=True))

    def _ask_rule(self, features: np.ndarray, seed: int | np.ndarray) -> np.ndarray:
        assert not isinstance(self.rule, MergedClusters)
        labels = as_array("federation.rule", self.rule(features, seed))
        if labels.shape != (len(features),) or labels.dtype.kind not in "iub":
            raise HuscfError(
                f"federation.rule must return {len(features)} integer labels, one per client; it "
                f"returned {labels.dtype} of shape {labels.shape}"
            )
        return np.unique(labels, return_inverse=True)[1]


def _listen(
    view: RoundView, memory: PolicyMemory
) -> tuple[frozenset[int], ActivationSummary | None]:
    """Return who is loud, and the positions of all others that can be compared now."""
    if view.summary is None:
        return memory.loud, remember(memory.known, None, view.sizes)
    loud = find_loud(view.summary, memory.known)
    quiet = [client for client in view.present if client not in loud]
    heard = view.summary.select(quiet) if quiet else None
    known = remember(memory.known, heard, view.sizes)
    return (memory.loud - set(quiet)) | loud, known


def _find_staying(
    clients: Sequence[int], previous: Mapping[int, int], memory: PolicyMemory
) -> np.ndarray:
    """Return, (N,) bool, which clients stay where they are; others go to the nearest centre.

    One that returns stays where nobody of its cluster was compared in the last round.
    """
    compared = {previous[client] for client in memory.compared if client in previous}
    staying = {
        client
        for client, cluster in previous.items()
        if client in memory.compared or cluster not in compared
    }
    return np.array([client in staying for client in clients])


def _ask_by_labels(
    rule: WeightRule,
    label_counts: np.ndarray,
    seed: int,
    num_samples: np.ndarray,
    divergences: np.ndarray,
) -> Any:
    """Call a weight rule that asks for labels in place of divergences."""
    return rule(num_samples, label_counts, seed)


def _has(rule: object, attribute: str) -> bool:
    return bool(getattr(rule, attribute, False))


def _check_takes(option: str, function: Callable, arguments: str) -> None:
    """Refuse a function of the user's that cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function that is not written in Python
        return
    try:
        signature.bind(*arguments.split(", "))
    except TypeError as error:
        raise HuscfError(f"federation.{option} is called with {arguments}: {error}") from error
