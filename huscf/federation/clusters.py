"""Finds groups of clients with alike activations; the number of groups is estimated."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..errors import HuscfError


class ClusterRule(ABC):
    """Maps one feature vector per client to one cluster label per client.

    Attributes:
        needs_features: Whether the rule looks at the features' values.
    """

    needs_features: ClassVar[bool] = True

    @abstractmethod
    def assign(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return (N,) labels 0..k-1.

        Args:
            features: (N, F), from `make_features`.
            seed: Seed of any random choice.
        """


class KMeansClusters(ClusterRule):
    """k-means; k by the silhouette unless it is given.

    Args:
        num_clusters: Fixed number of clusters, or None to estimate it.
        max_clusters: Largest number tried when estimating; never more than clients - 1.
        min_silhouette: Below this the clients count as one cluster. 0 always splits, 1 never.
            Measured: clients of one domain reach at most 0.28, two domains at least 0.33.
    """

    def __init__(
        self,
        num_clusters: int | None = None,
        max_clusters: int = 8,
        min_silhouette: float = 0.3,
    ) -> None:
        if num_clusters is not None and num_clusters < 1:
            raise HuscfError(f"num_clusters is {num_clusters}, must be at least 1")
        self.num_clusters = num_clusters
        self.max_clusters = max_clusters
        self.min_silhouette = min_silhouette

    def assign(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Cluster with the fixed k, or with the k of the highest mean silhouette."""
        if self.num_clusters is not None:
            return _k_means(features, min(self.num_clusters, len(features)), seed)
        from sklearn.metrics import silhouette_score

        best, best_score = np.zeros(len(features), dtype=int), self.min_silhouette
        for k in range(2, min(self.max_clusters, len(features) - 1) + 1):
            labels = _k_means(features, k, seed)
            if len(set(labels)) < k:
                break
            score = silhouette_score(features, labels)
            if score > best_score:
                best, best_score = labels, score
        return best


class OneCluster(ClusterRule):
    """Everybody together: plain federated averaging."""

    needs_features = False

    def assign(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return zeros."""
        return np.zeros(len(features), dtype=int)


class EachAlone(ClusterRule):
    """Every client its own cluster: nothing is averaged."""

    needs_features = False

    def assign(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return 0..N-1."""
        return np.arange(len(features))


def make_features(maps: np.ndarray) -> np.ndarray:
    """Describe each client by its mean activation map and its channel means, in equal parts.

    Deviation: the paper compares maps alone. Where things lie in a picture depends on the classes
    that a client has, so that under label skew maps split one domain in two; channel means alone
    split domains of few clients. Together they found the true domains in every case tried
    (docs/results.md).

    Args:
        maps: (N, C, L) mean activations; L positions, or (N, C) without any.

    Returns:
        (N, F), scaled by `scale_features`.
    """
    flat = maps.reshape(len(maps), -1)
    if maps.ndim == 2:
        return scale_features(flat)
    both = [scale_features(flat), scale_features(maps.mean(2))]
    return scale_features(np.hstack(both))


def scale_features(features: np.ndarray, max_components: int = 16) -> np.ndarray:
    """Centre, project on the principal components and scale to unit mean square distance.

    One common scale, not one per feature: most of thousands of activation means are noise, and
    per-feature standardisation would make the noise as loud as the domains.

    Args:
        features: (N, F).
        max_components: Number of components kept, at most N - 1.
    """
    centred = features - features.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    count = max(1, min(max_components, len(features) - 1))
    scores = (left * singular)[:, :count]
    scale = np.sqrt((scores**2).sum(1).mean())
    return scores / scale if scale > 0 else scores


def match_labels(labels: Mapping[int, int], previous: Mapping[int, int]) -> dict[int, int]:
    """Rename clusters so that as many clients as possible keep their previous label.

    Args:
        labels: New cluster of each client.
        previous: Old cluster of each client; may be empty or of other clients.

    Returns:
        The same grouping with labels 0..k-1.
    """
    new_names = sorted(set(labels.values()))
    size = max([len(new_names), *(label + 1 for label in previous.values())])
    overlap = np.zeros((len(new_names), size))
    for client, label in labels.items():
        if client in previous:
            overlap[new_names.index(label), previous[client]] += 1
    rows, columns = linear_sum_assignment(-overlap)
    renamed = {new_names[row]: int(column) for row, column in zip(rows, columns, strict=True)}
    # Labels stay dense: a vanished cluster's number is given to the next one.
    dense = {name: i for i, name in enumerate(sorted(set(renamed.values())))}
    return {client: dense[renamed[label]] for client, label in labels.items()}


def _k_means(features: np.ndarray, k: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=10, random_state=seed % 2**32).fit_predict(features)
