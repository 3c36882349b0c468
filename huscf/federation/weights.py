"""How much each member of a cluster counts in its average."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.special import rel_entr, softmax

from ..errors import HuscfError

Weighting = Literal["kld", "samples", "uniform"]
Divergence = Literal["gaussian", "positions"]

#: Maps n_k and KLD_k, (N,) each, to N numbers >= 0; a cluster's are divided by their sum.
WeightRule = Callable[..., Any]


def gaussian_divergences(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return KL(P_k || Q_k) in nats; P_k is normal around client k, Q_k around the others' mean.

    Both have the covariance of samples within a client, so that it is half the squared distance
    of the features, in both directions. Zero for the only member of a cluster.

    Args:
        features: (N, D) from `describe_clients`.
        labels: (N,) clusters.
    """
    divergences = np.zeros(len(labels))
    for k, others in _fellow_members(labels):
        gap = features[k] - features[others].mean(0)
        divergences[k] = 0.5 * gap @ gap
    return divergences


def position_divergences(maps: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return KL(P_k || Q_k) in nats; P_k is the softmax over positions of k's mean activation.

    Q_k is the mean of the fellow members' P. The direction: how badly the others' distribution
    explains client k's. Averaged over channels; zero for the only member of a cluster.

    Source: arXiv:2507.12979, as its released code computes it. It is 1e-3 to 1e-2 and hardly
        distinguishes clients.

    Args:
        maps: (N, C, L) mean activations.
        labels: (N,) clusters.
    """
    distributions = softmax(maps, axis=2)
    divergences = np.zeros(len(labels))
    for k, others in _fellow_members(labels):
        rest = distributions[others].mean(0)
        divergences[k] = rel_entr(distributions[k], rest).sum(1).mean()
    return divergences


def member_weights(
    sizes: Mapping[int, int],
    clusters: Mapping[int, int],
    divergences: Mapping[int, float],
    weighting: Weighting | WeightRule = "kld",
    beta: float = 1.0,
    size_exponent: float = 1.0,
) -> dict[int, float]:
    """Return each client's weight; the weights of a cluster sum to 1.

    A cluster in which nobody counts is averaged uniformly.

    Source: w_k proportional to n_k * exp(-beta * KLD_k), arXiv:2507.12979; an exponent of n_k
        other than 1 is ours.

    Args:
        sizes: Number of training samples n_k by client; 0 leaves a client out of the average.
        clusters: Cluster by client.
        divergences: KLD_k in nats by client; a missing one counts as 0.
        weighting: "kld" for n_k ** size_exponent * exp(-beta * KLD_k), "samples" for n_k,
            "uniform", or a function of n_k and KLD_k.
        beta: How strongly divergence lowers the weight.
        size_exponent: How strongly samples raise it: 1 in proportion, 0 not at all.

    Raises:
        HuscfError: Where a function returns anything but a finite number >= 0 for each client.
    """
    members = list(clusters)
    counts = np.array([float(sizes[client]) for client in members])
    values = np.array([divergences.get(client, 0.0) for client in members])
    with np.errstate(divide="ignore"):
        if weighting == "kld":
            logs = size_exponent * np.log(np.maximum(counts, 1)) - beta * values
        elif weighting == "samples":
            logs = np.log(counts)
        elif weighting == "uniform":
            logs = np.zeros(len(members))
        else:
            logs = np.log(_ask(weighting, counts, values))
    logs[counts == 0] = -np.inf
    labels = np.array(list(clusters.values()))
    weights = np.zeros(len(members))
    for label in set(clusters.values()):
        own = labels == label
        is_counted = np.isfinite(logs[own]).any()
        weights[own] = softmax(logs[own]) if is_counted else 1 / own.sum()
    return dict(zip(members, weights.tolist(), strict=True))


def _ask(weighting: WeightRule, counts: np.ndarray, divergences: np.ndarray) -> np.ndarray:
    weights = as_array("federation.weighting", weighting(counts, divergences))
    is_number = weights.dtype.kind in "fiub" and weights.shape == counts.shape
    if not is_number or not (np.isfinite(weights) & (weights >= 0)).all():
        raise HuscfError(
            f"federation.weighting must return {len(counts)} finite numbers >= 0, one per client; "
            f"it returned {weights.tolist()}"
        )
    return weights


def as_array(option: str, returned: object) -> np.ndarray:
    """Return what a user's function returned as an array.

    Raises:
        HuscfError: Naming the option, where it is none.
    """
    try:
        return np.asarray(returned)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise HuscfError(f"{option} must return an array: {reason}") from error


def _fellow_members(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return every client that has fellow members, and who they are as a mask."""
    each = (
        (k, (labels == label) & (np.arange(len(labels)) != k)) for k, label in enumerate(labels)
    )
    return [(k, others) for k, others in each if others.any()]
