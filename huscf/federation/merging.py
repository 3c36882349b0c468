"""Finds clusters by merging those that are too near each other to be different domains."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import HuscfError
from .statistics import ActivationSummary, limit_covariances

#: Share of a covariance that is replaced by its mean variance.
_SHRINKAGE = 0.2

#: So many samples' worth of the covariance of all clients goes into a cluster's own.
_PRIOR_SAMPLES = 20.0

#: An inverse from however few samples counts at least so much.
_LEAST_TRUST = 0.1

#: Two single clients are merged up to so many times the merging distance. Measured: two of one
#: domain with other labels are up to 0.6 apart, of MNIST and Fashion-MNIST 0.9 or more.
_PAIR = 1.6

#: Clients are joined at sight up to this share of the merging distance.
_AT_SIGHT = 0.7


@dataclass
class _Group:
    """A cluster in the making."""

    members: np.ndarray
    count: float
    mean: np.ndarray
    covariance: np.ndarray
    previous: int
    num_old: int


class MergedClusters:
    """Merges clients, then clusters, from the nearest on, while their distance allows one domain.

    The number of clusters has no limit and their sizes do not matter. The distance of two
    clusters is Mahalanobis' between their means, under the covariance of single samples inside
    them, less what chance alone makes of it. Its unit is the spread that chance gives to squared
    distances, so that it is the same for few and many features. It is the two clusters' own
    covariance that counts, not that of all: one domain's classes may differ where another's are
    alike, and a client that lacks classes is near its own domain and far from another.

    Args:
        distance: Clusters that are nearer are merged; two single clients, of which neither tells
            how much a domain varies, up to 1.6 times that. Measured at width 8: right from 0.3 on
            at the latest, to 0.6 at least (docs/federation.md).
        alone_distance: The distance where more clients would be alone than in company: there
            being different is the rule, and who is alone gains nothing from the others. Measured:
            six speakers, who are one domain, are 0.4 to 2.1 apart.
        certainty: A distance counts less by so many of its own standard errors: of few samples,
            more is asked.
        hysteresis: Clients that shared a cluster in the last round count as nearer by this share,
            those that did not as farther: 0.2 merges old clusters below 0.42, and parts one of
            them above 0.6.
    """

    def __init__(
        self,
        distance: float = 0.5,
        alone_distance: float = 2.2,
        certainty: float = 2.0,
        hysteresis: float = 0.2,
    ) -> None:
        for name, value in (
            ("distance", distance),
            ("alone_distance", alone_distance),
            ("certainty", certainty),
        ):
            if not value >= 0:
                raise HuscfError(f"federation.rule: {name} is {value}, must be >= 0")
        if not 0 <= hysteresis < 1:
            raise HuscfError(f"federation.rule: hysteresis is {hysteresis}, must be in [0, 1)")
        self.distance = distance
        self.alone_distance = alone_distance
        self.certainty = certainty
        self.hysteresis = hysteresis

    def __call__(self, summary: ActivationSummary, previous: np.ndarray) -> np.ndarray:
        """Return (N,) labels 0..k-1.

        Args:
            summary: Of N >= 1 clients, finite.
            previous: (N,) cluster of each in the last round; below 0 where it had none.
        """
        if len(summary.client_ids) < 2 or not np.trace(summary.covariance) > 0:
            return np.zeros(len(summary.client_ids), dtype=int)
        limited = limit_covariances(summary.covariances, summary.counts)
        summary = replace(summary, covariances=limited)
        if not np.trace(summary.covariance) > 0:
            return np.zeros(len(summary.client_ids), dtype=int)
        labels = self._join_at_sight(summary, previous)
        labels = self._merge(summary, previous, labels, self.distance)
        num_alone = (np.bincount(labels) == 1).sum()
        if len(labels) == 2 or 2 * num_alone <= len(labels):
            return labels
        return self._merge(summary, previous, labels, self.alone_distance)

    def _join_at_sight(self, summary: ActivationSummary, previous: np.ndarray) -> np.ndarray:
        """Average linkage of clients, under the covariance that all have in common."""
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform

        squares = _squared_distances(summary)
        factors = self._bias(previous[:, None], previous[None])
        squares = np.maximum(squares, 0) * factors**2
        np.fill_diagonal(squares, 0)
        tree = linkage(squareform(squares, checks=False), "average")
        return fcluster(tree, (_AT_SIGHT * self.distance) ** 2, "distance") - 1

    def _merge(
        self, summary: ActivationSummary, previous: np.ndarray, labels: np.ndarray, limit: float
    ) -> np.ndarray:
        """Merge the nearest two groups again and again, while they are nearer than a limit."""
        pooled = summary.covariance
        groups = [
            _describe(summary, previous, pooled, np.flatnonzero(labels == label))
            for label in np.unique(labels)
        ]
        squares = np.full((len(groups),) * 2, np.inf)
        for i, group in enumerate(groups):
            for j in range(i):
                squares[i, j] = squares[j, i] = self._measure(group, groups[j])
        alive = np.ones(len(groups), dtype=bool)
        while alive.sum() > 1:
            i, j = divmod(int(squares.argmin()), len(groups))
            if squares[i, j] > limit**2:
                break
            members = np.concatenate([groups[i].members, groups[j].members])
            groups[i] = _describe(summary, previous, pooled, members)
            alive[j] = False
            squares[j] = squares[:, j] = np.inf
            for other in np.flatnonzero(alive):
                if other != i:
                    square = self._measure(groups[i], groups[other])
                    squares[i, other] = squares[other, i] = square
        found = np.zeros(len(labels), dtype=int)
        for label, index in enumerate(np.flatnonzero(alive)):
            found[groups[index].members] = label
        return found

    def _measure(self, one: _Group, other: _Group) -> float:
        """Return the squared distance of two groups in units of its spread; it can be below 0."""
        shares = np.sqrt([one.count, other.count])
        mixed = (shares[0] * one.covariance + shares[1] * other.covariance) / shares.sum()
        freedoms = np.maximum([one.count - 1, other.count - 1], 0) + _PRIOR_SAMPLES
        metric = _make_metric(mixed, shares.sum() ** 2 / (shares**2 / freedoms).sum())
        gap = one.mean - other.mean
        noise = 1 / one.count + 1 / other.count
        square = (gap @ metric.inverse @ gap - metric.chance * noise) / metric.spread
        square -= self.certainty * noise
        # Old members bind a cluster as far as they are many in it.
        share = (one.num_old + other.num_old) / (len(one.members) + len(other.members))
        factor = self._bias(np.array(one.previous), np.array(other.previous)) ** share
        if len(one.members) == len(other.members) == 1 and square > 0:
            factor /= _PAIR
        return float(square * factor**2)

    def _bias(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return by how much distances count as longer, for what clusters were before."""
        is_known = (one >= 0) & (other >= 0)
        factor = np.where(one == other, 1 / (1 + self.hysteresis), 1 + self.hysteresis)
        return np.where(is_known, factor, 1.0)


def _describe(
    summary: ActivationSummary, previous: np.ndarray, pooled: np.ndarray, members: np.ndarray
) -> _Group:
    counts, means = summary.counts[members], summary.means[members]
    total = counts.sum()
    mean = counts @ means / total
    scatter = np.tensordot(np.maximum(counts - 1, 0), summary.covariances[members], 1)
    covariance = (scatter + _PRIOR_SAMPLES * pooled) / (max(total - 1, 0) + _PRIOR_SAMPLES)
    old = previous[members][previous[members] >= 0]
    usual = int(np.bincount(old).argmax()) if len(old) else -1
    return _Group(members, total, mean, covariance, usual, len(old))


def _squared_distances(summary: ActivationSummary) -> np.ndarray:
    """Return (N, N) squared distances of clients under the pooled covariance, in their units."""
    covariance = summary.covariance
    metric = _make_metric(covariance, np.maximum(summary.counts - 1, 0).sum())
    # By eigenvalues, not by Cholesky: rounding may make the smallest of them negative.
    values, axes = np.linalg.eigh((metric.inverse + metric.inverse.T) / 2)
    root = axes * np.sqrt(np.maximum(values, 0))
    whitened = (summary.means - summary.means.mean(0)) @ root
    norms = (whitened**2).sum(1)
    squares = norms[:, None] + norms - 2 * whitened @ whitened.T
    noise = 1 / summary.counts
    return (squares - metric.chance * (noise[:, None] + noise)) / metric.spread


class _Metric(NamedTuple):
    """How squared distances of means are measured, and what chance makes of them.

    Args:
        inverse: (F, F), of the covariance of single samples.
        chance: Squared distance of a single sample from its mean, on average.
        spread: Standard deviation of the squared distance of two single samples, over two.
    """

    inverse: np.ndarray
    chance: float
    spread: float


def _make_metric(covariance: np.ndarray, freedom: float) -> _Metric:
    """Return the metric of a covariance, (F, F), with so many degrees of freedom behind it.

    An inverse that was estimated from few samples is too large, by the share of the degrees of
    freedom that the features use up.
    """
    shrunk = (1 - _SHRINKAGE) * covariance
    shrunk[np.diag_indices_from(shrunk)] += _SHRINKAGE * np.trace(covariance) / len(covariance)
    inverse = np.linalg.inv(shrunk)
    products = inverse @ covariance
    chance = float(np.trace(products))
    trust = max(1 - (1 - _SHRINKAGE) * chance / max(freedom, 1.0), _LEAST_TRUST)
    return _Metric(trust * inverse, chance, float(np.sqrt(2 * (products**2).sum())))
