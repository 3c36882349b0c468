"""Finds groups of clients with alike activations; the number of groups is estimated."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..errors import HuscfError, check_number

#: So many more clusters are tried after the best number so far.
_PATIENCE = 8

#: Maps features, (N, D) from `describe_clients`, and a seed to (N,) integer labels. A rule with
#: a false attribute `needs_features` also runs where clients cannot be compared, on (N, 0).
ClusterRule = Callable[..., Any]


class EstimatedClusters(ABC):
    """Divides clients into the number of clusters that has the highest mean silhouette.

    Among the numbers whose silhouette is within `tolerance` of the best, the largest wins, because
    averaging two domains does more harm than splitting one. It must not leave more clients alone
    than the best number does, because a client alone gains nothing from the others. As many
    clusters as clients have no silhouette and are not tried; two clients are parted by distance.

    Args:
        num_clusters: Fixed number of clusters, or None to estimate it.
        max_clusters: Largest number tried when estimating; never more than clients - 1. None has
            no limit: larger numbers are tried until eight in a row were no better.
        min_silhouette: Below this all count as one cluster. Measured: clients of one domain with
            skewed labels reach at most 0.31, different domains at least 0.35.
        min_distance: Clusters whose centres are closer, in units of the spread of samples within a
            client, count as one. Measured: clients of one domain and distribution are at most
            1.4 apart, clusters of different domains at least 2.
        alone_distance: Two clients that are farther apart are a cluster each. Measured: clients
            of one domain with skewed labels are 2 to 4 apart.
        tolerance: By how much a silhouette may be below the best and still win.
    """

    def __init__(
        self,
        num_clusters: int | None = None,
        max_clusters: int | None = None,
        min_silhouette: float = 0.33,
        min_distance: float = 1.5,
        alone_distance: float = 5.0,
        tolerance: float = 0.05,
    ) -> None:
        for name, value in (("num_clusters", num_clusters), ("max_clusters", max_clusters)):
            if value is not None and value < 1:
                raise HuscfError(f"{name} is {value}, must be at least 1")
        check_number("min_silhouette", min_silhouette, -1.0, 1.0)
        check_number("min_distance", min_distance)
        check_number("alone_distance", alone_distance)
        check_number("tolerance", tolerance)
        self.num_clusters = num_clusters
        self.max_clusters = max_clusters
        self.min_silhouette = min_silhouette
        self.min_distance = min_distance
        self.alone_distance = alone_distance
        self.tolerance = tolerance

    def __call__(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return (N,) labels 0..k-1 with the fixed k or the estimated one."""
        num_places = len(np.unique(features, axis=0))
        if self.num_clusters is not None:
            return self.divide(features, min(self.num_clusters, num_places), seed)
        if len(features) == 2:
            is_apart = np.linalg.norm(features[0] - features[1]) > self.alone_distance
            return np.arange(2) * int(is_apart)
        found: list[tuple[float, np.ndarray]] = []
        limit = min(self.max_clusters or len(features), len(features) - 1, num_places)
        best_k = 1
        for k in range(2, limit + 1):
            if self.max_clusters is None and k > best_k + _PATIENCE:
                break
            labels = self.divide(features, k, seed)
            if len(set(labels)) < k or _smallest_gap(features, labels) < self.min_distance:
                continue
            if (score := mean_silhouette(features, labels)) > self.min_silhouette:
                if score > max((other for other, _ in found), default=-1.0):
                    best_k = k
                found.append((score, labels))
        if not found:
            return np.zeros(len(features), dtype=int)
        best, labels = max(found, key=lambda entry: entry[0])
        num_alone = _count_alone(labels)
        good = [each for score, each in found if score >= best - self.tolerance]
        return [each for each in good if _count_alone(each) <= num_alone][-1]

    def holds(self, features: np.ndarray, labels: np.ndarray, margin: float) -> bool:
        """Return whether the several clusters of the last round are kept.

        Args:
            features: (N, D).
            labels: (N,), two clusters or more.
            margin: By how much the mean silhouette may be below its limit, and by which share
                distances may.
        """
        gap = _smallest_gap(features, labels)
        if len(features) == 2:
            return gap > self.alone_distance * (1 - margin)
        is_apart = gap >= self.min_distance * (1 - margin)
        return is_apart and mean_silhouette(features, labels) > self.min_silhouette - margin

    @abstractmethod
    def divide(self, features: np.ndarray, k: int, seed: int) -> np.ndarray:
        """Return (N,) labels of k clusters, 1 <= k <= N."""


class KMeansClusters(EstimatedClusters):
    """k-means, the best of ten starts."""

    def divide(self, features: np.ndarray, k: int, seed: int) -> np.ndarray:
        """Return (N,) labels of k clusters."""
        from sklearn.cluster import KMeans

        return KMeans(k, n_init=10, random_state=seed % 2**32).fit_predict(features)


class AgglomerativeClusters(EstimatedClusters):
    """Merges the closest clusters, beginning with single clients.

    Args:
        linkage: What the distance of two clusters is: "average", "complete", "single" or "ward".
        **kwargs: As of EstimatedClusters.
    """

    def __init__(
        self,
        linkage: Literal["average", "complete", "single", "ward"] = "average",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.linkage = linkage

    def divide(self, features: np.ndarray, k: int, seed: int) -> np.ndarray:
        """Return (N,) labels of k clusters."""
        from sklearn.cluster import AgglomerativeClustering

        if len(features) == 1:
            return np.zeros(1, dtype=int)
        return AgglomerativeClustering(k, linkage=self.linkage).fit_predict(features)


class OneCluster:
    """Everybody together: plain federated averaging."""

    needs_features = False

    def __call__(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return zeros."""
        return np.zeros(len(features), dtype=int)


class EachAlone:
    """Every client its own cluster: nothing is averaged."""

    needs_features = False

    def __call__(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return 0..N-1."""
        return np.arange(len(features))


class GivenClusters:
    """Clusters that are agreed on beforehand, so that nothing is learned from anybody's data.

    Args:
        clusters: Client ids of every cluster; every client of the run is in one of them.
    """

    needs_features = False

    def __init__(self, clusters: list[list[int]]) -> None:
        ids = sorted(client for members in clusters for client in members)
        if not ids or ids != list(range(len(ids))):
            raise HuscfError(
                f"federation.rule.clusters is {clusters}: needs every client, 0 to the last, once"
            )
        self._labels = {c: label for label, members in enumerate(clusters) for c in members}

    def __call__(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return the number of every client's cluster."""
        if len(self._labels) != len(features):
            raise HuscfError(
                f"federation.rule.clusters names {len(self._labels)} clients, and there are "
                f"{len(features)}"
            )
        return np.array([self._labels[client] for client in range(len(features))])


def mean_silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette in [-1, 1]; 0 where clusters are one, or as many as clients."""
    from sklearn.metrics import silhouette_score

    if not 1 < len(set(labels)) < len(labels):
        return 0.0
    return float(silhouette_score(features, labels))


def keep_unless_better(
    rule: ClusterRule,
    features: np.ndarray,
    labels: np.ndarray,
    previous: np.ndarray,
    margin: float,
) -> np.ndarray:
    """Return the previous clusters, unless new ones are clearly better.

    Args:
        rule: What has found the new ones. If it found a single cluster where there were several,
            its method `holds`, if it has one, says whether the old ones are kept.
        features: (N, D).
        labels: (N,) as the rule has found them.
        previous: (N,) of the last round.
        margin: By how much the mean silhouette of the new ones must be higher; where they only
            divide previous ones, it may be lower by as much.

    Returns:
        One of the two. Several clusters replace a single one at once, as that has no silhouette.
    """
    if len(set(previous)) < 2:
        return labels
    if len(set(labels)) < 2:
        holds = getattr(rule, "holds", None)
        return previous if holds and holds(features, previous, margin) else labels
    gain = mean_silhouette(features, labels) - mean_silhouette(features, previous)
    is_finer = len(set(zip(labels.tolist(), previous.tolist(), strict=True))) == len(set(labels))
    return labels if gain > (-margin if is_finer else margin) else previous


def assign_to_nearest(features: np.ndarray, labels: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Put clients into the existing cluster with the nearest centre; the others stay.

    Args:
        features: (N, D).
        labels: (N,) clusters of the known clients; other entries are ignored.
        is_known: (N,) bool, at least one true.
    """
    centres = _centres(features[is_known], labels[is_known])
    nearest = _distances(features, centres).argmin(1)
    return np.where(is_known, labels, np.unique(labels[is_known])[nearest])


def match_labels(labels: Mapping[int, int], previous: Mapping[int, int]) -> dict[int, int]:
    """Rename clusters so that as many clients as possible keep their previous label.

    Args:
        labels: New cluster of each client.
        previous: Old cluster of each client; may be empty. Clients without a new one stay with the
            cluster that took their label over, or keep one of their own if none has.

    Returns:
        Clusters 0..k-1 of all clients.
    """
    new_names = sorted(set(labels.values()))
    size = max([len(new_names), *(label + 1 for label in previous.values())])
    overlap = np.zeros((len(new_names), size))
    for client, label in labels.items():
        if client in previous:
            overlap[new_names.index(label), previous[client]] += 1
    rows, columns = linear_sum_assignment(-overlap)
    # A cluster that shares no client with any old one must not take over an old one's label.
    renamed = {
        new_names[row]: int(column) if overlap[row, column] else size + row
        for row, column in zip(rows, columns, strict=True)
    }
    matched = dict(previous) | {client: renamed[label] for client, label in labels.items()}
    # Labels stay dense: a vanished cluster's number is given to the next one.
    dense = {name: i for i, name in enumerate(sorted(set(matched.values())))}
    return {client: dense[label] for client, label in sorted(matched.items())}


def rand_index(clusters: Mapping[int, int], domains: Mapping[int, str]) -> float:
    """Return the adjusted Rand index of clusters with the true domains, by client."""
    from sklearn.metrics import adjusted_rand_score

    return float(
        adjusted_rand_score([domains[c] for c in clusters], [clusters[c] for c in clusters])
    )


def _count_alone(labels: np.ndarray) -> int:
    """Return how many clusters have a single client."""
    return int((np.unique(labels, return_counts=True)[1] == 1).sum())


def _smallest_gap(features: np.ndarray, labels: np.ndarray) -> float:
    centres = _centres(features, labels)
    gaps = _distances(centres, centres)
    return float(gaps[~np.eye(len(centres), dtype=bool)].min())


def _centres(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (k, D), in ascending order of labels."""
    return np.stack([features[labels == name].mean(0) for name in np.unique(labels)])


def _distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - others[None], axis=2)
