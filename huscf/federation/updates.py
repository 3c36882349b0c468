"""Cluster rules that compare what a round has changed in clients' blocks, not what they observe."""

from typing import Literal

import numpy as np

from ..errors import HuscfError, check_number

Linkage = Literal["average", "complete"]


class CflClusters:
    """Clustered federated learning: a cluster whose clients pull apart is divided in two.

    A cluster is divided where its clients' changes are large and their mean is small, so that an
    average serves nobody: the norm of the mean is below `stationary` times the mean norm. The two
    parts are those of complete linkage on the cosine of changes. Clusters never merge, and their
    number need not be known.

    Source: Sattler, Mueller and Samek 2019, arXiv:1910.01991, and its released code. Deviations:
        two absolute limits on norms there are a relative one here, as a GAN's changes never become
        small; only blocks of the discriminator that every client holds are compared, as the others
        are the server's. Rounds before the first division: federation.warmup_rounds.

    Args:
        stationary: Norm of the mean change over the mean norm of changes, from 0 to 1, below which
            a cluster is divided. Measured on the digits: 0.4 never divides, 0.6 finds the domains,
            0.8 divides these too.
        min_clients: Clusters of fewer are left alone; at least 2.
    """

    needs_features = False
    needs_updates = True

    def __init__(self, stationary: float = 0.6, min_clients: int = 3) -> None:
        check_number("federation.rule: stationary", stationary, 0, 1)
        check_number("federation.rule: min_clients", min_clients, 2)
        self.stationary = stationary
        self.min_clients = min_clients

    def __call__(self, updates: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Return (N,) labels.

        Args:
            updates: (N, P) what the round has changed in every client's compared blocks.
            previous: (N,) clusters.
        """
        labels = previous.copy()
        for cluster in np.unique(previous):
            members = np.flatnonzero(previous == cluster)
            if self.should_divide(updates[members]):
                parts = link_updates(updates[members], 2, "complete")
                labels[members[parts != parts[0]]] = labels.max() + 1
        return labels

    def should_divide(self, updates: np.ndarray) -> bool:
        """Return whether the changes of a cluster's clients, (n, P), pull apart."""
        if len(updates) < self.min_clients:
            return False
        mean_norm = np.linalg.norm(updates, axis=1).mean()
        return bool(np.linalg.norm(updates.mean(0)) < self.stationary * mean_norm)


class UpdateClusters:
    """Groups clients by the cosine of what a round has changed in their blocks.

    Source: how HFL-GAN (Petch et al. 2024) assigns clients to edge servers, a reconstruction: its
        abstract says that it does, not how.

    Args:
        num_clusters: How many groups, or edge servers, there are, at least 1.
        linkage: What the distance of two groups is: "average" or "complete".
    """

    needs_features = False
    needs_updates = True

    def __init__(self, num_clusters: int = 2, linkage: Linkage = "average") -> None:
        if num_clusters < 1:
            raise HuscfError(f"federation.rule: num_clusters is {num_clusters}, must be >= 1")
        self.num_clusters = num_clusters
        self.linkage: Linkage = linkage

    def __call__(self, updates: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Return (N,) labels from changes, (N, P), whatever the clusters were."""
        return link_updates(updates, min(self.num_clusters, len(updates)), self.linkage)


def link_updates(updates: np.ndarray, count: int, linkage: Linkage) -> np.ndarray:
    """Return (N,) labels of so many groups, of which the nearest were merged first.

    Args:
        updates: (N, P), each different from 0.
        count: 1 to N.
        linkage: Of groups, over the distance 1 - cosine.
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(updates) == 1:
        return np.zeros(1, dtype=int)
    distances = 1 - cosines(updates)
    rule = AgglomerativeClustering(count, metric="precomputed", linkage=linkage)
    return rule.fit_predict(distances)


def cosines(updates: np.ndarray) -> np.ndarray:
    """Return (N, N) cosines of the angles between (N, P) rows; 0 with one that is 0."""
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    directions = updates / np.where(norms > 0, norms, 1.0)
    return np.clip(directions @ directions.T, -1.0, 1.0)
