"""How much each member of a cluster counts in its average."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np

Weighting = Literal["kld", "samples", "uniform"]


def kl_from_others(distributions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return KL(P_k || Q_k) in nats; Q_k is the mean distribution of k's fellow members.

    The direction: how badly the others' distribution explains client k's activations. Zero for
    the only member of a cluster.

    Args:
        distributions: (N, C) rows that sum to 1.
        labels: (N,) clusters.
    """
    divergences = np.zeros(len(labels))
    for k, label in enumerate(labels):
        others = (labels == label) & (np.arange(len(labels)) != k)
        if others.any():
            own, rest = distributions[k], distributions[others].mean(0)
            tiny = np.finfo(float).tiny
            ratio = np.log(np.maximum(own, tiny)) - np.log(np.maximum(rest, tiny))
            divergences[k] = float((own * ratio).sum())
    return divergences


def member_weights(
    sizes: Mapping[int, int],
    clusters: Mapping[int, int],
    divergences: Mapping[int, float],
    weighting: Weighting = "kld",
    beta: float = 1.0,
) -> dict[int, float]:
    """Return each client's weight; the weights of a cluster sum to 1.

    A cluster in which nobody counts is averaged uniformly.

    Source: w_k proportional to n_k * exp(-beta * KLD_k), section 3 of the design.

    Args:
        sizes: Number of training samples n_k by client; 0 leaves a client out of the average.
        clusters: Cluster by client.
        divergences: KLD_k in nats by client; a missing one counts as 0.
        weighting: "kld" as above, "samples" for n_k alone, "uniform".
        beta: How strongly divergence lowers the weight; 0 makes "kld" equal "samples".
    """
    raw = {}
    for client in clusters:
        size = 1.0 if weighting == "uniform" else float(sizes[client])
        penalty = beta * divergences.get(client, 0.0) if weighting == "kld" else 0.0
        raw[client] = size * float(np.exp(-penalty))
    totals: dict[int, float] = {}
    for client, cluster in clusters.items():
        totals[cluster] = totals.get(cluster, 0.0) + raw[client]
    counts = Counter(clusters.values())
    return {
        client: raw[client] / totals[cluster] if totals[cluster] > 0 else 1 / counts[cluster]
        for client, cluster in clusters.items()
    }
