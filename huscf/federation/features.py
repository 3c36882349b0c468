"""Clients as points whose distances say how differently their data activate the server's block."""

import numpy as np

from .statistics import ActivationSummary

#: Share of the within-client covariance that is replaced by its mean variance.
SHRINKAGE = 0.05


def describe_clients(summary: ActivationSummary) -> np.ndarray:
    """Return one point per client, in units of the spread of single samples within a client.

    The squared distance of two clients is Mahalanobis' between their means, under the covariance
    that samples have within a client, less what chance alone would make of it. So what varies from
    sample to sample anyway, such as the class, counts little. A client that lacks two or three of
    ten classes is not mistaken for one of another domain; clients that hold only one or two classes
    are told apart by these. Clients of one distribution are about 0 apart, however few samples
    they have.

    Deviation: the paper compares mean activation maps by their Euclidean distance. Those found
    label skew and different cuts rather than domains (docs/ablations.md).

    Args:
        summary: Of N clients with finite means.

    Returns:
        (N, D), D at most N - 1, or 1 where N is 1: principal coordinates in descending order,
            centred.

    Source: classical scaling, Torgerson 1952; the correction for chance is that of the
        cross-validated Mahalanobis distance, in expectation.
    """
    covariance, count = summary.covariance, len(summary.means)
    mean_variance = np.trace(covariance) / len(covariance)
    if not mean_variance > 0:
        return np.zeros((count, 1))
    shrunk = (1 - SHRINKAGE) * covariance
    shrunk[np.diag_indices_from(shrunk)] += SHRINKAGE * mean_variance
    variances, axes = np.linalg.eigh(shrunk)
    whitened = (summary.means - summary.means.mean(0)) @ axes / np.sqrt(variances)
    # Variance of a single whitened sample; divided by its count, that of a client's mean.
    noise = np.trace(np.linalg.solve(shrunk, covariance)) / summary.counts
    centring = np.eye(count) - 1 / count
    products = whitened @ whitened.T - centring @ (noise[:, None] * centring)
    squares, vectors = np.linalg.eigh(products)
    largest = np.argsort(squares)[::-1][: max(1, count - 1)]
    return vectors[:, largest] * np.sqrt(np.maximum(squares[largest], 0.0))
