"""IFCA: clients choose the cluster whose model fits their data best."""

from collections.abc import Mapping

import numpy as np

from ..errors import HuscfError


class IfcaClusters:
    """A fixed number of clusters, begun by chance, among which clients choose anew every round.

    When a round begins, every client gets the blocks of all clusters by which samples are drawn,
    measures its loss under each, and goes on with the cluster of the least.

    Source: Ghosh et al. 2020, arXiv:2006.04088 (model averaging). Deviations: the loss is the
        maximum mean discrepancy of a client's batch and of samples with its labels, as IFCA has no
        GAN, and a discriminator's loss tells how it fares against its generator, not whether data
        are of its domain; all start from one set of weights, so that clusters differ by who
        trained them in the first round, not by their initial weights; a cluster that everybody
        would leave keeps the client that loses least by staying, where IFCA's would be empty.

    Args:
        num_clusters: k, at least 1, which IFCA has to know. Fewer clients make as many clusters.
    """

    needs_features = False
    lets_choose = True

    def __init__(self, num_clusters: int = 2) -> None:
        if num_clusters < 1:
            raise HuscfError(f"federation.rule: num_clusters is {num_clusters}, must be >= 1")
        self.num_clusters = num_clusters

    def __call__(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Return (N,) labels to begin with: clusters of equal size, drawn by chance."""
        count = len(features)
        order = np.random.default_rng(seed).permutation(count)
        return order % min(self.num_clusters, count)


def choose_clusters(
    losses: Mapping[int, Mapping[int, float]], previous: Mapping[int, int]
) -> dict[int, int]:
    """Return the cluster of every client: that of its least loss, its own where that is as low.

    Args:
        losses: By client and cluster; clients without stay where they are.
        previous: Cluster of every client, all of which stay inhabited.
    """
    chosen = dict(previous)
    for client, by_cluster in losses.items():
        own = previous[client]
        best = min(by_cluster, key=lambda c: (by_cluster[c], c != own, c))
        chosen[client] = best
    for cluster in sorted(set(previous.values())):
        members = [client for client in previous if previous[client] == cluster]
        if all(chosen[client] != cluster for client in members):
            regrets = {c: losses[c][cluster] - losses[c][chosen[c]] for c in members}
            chosen[min(regrets, key=lambda c: (regrets[c], c))] = cluster
    return chosen
