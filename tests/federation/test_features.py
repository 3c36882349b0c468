"""Distances between clients, against SciPy's Mahalanobis, and what chance makes of them."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from huscf.federation import ActivationSummary, describe_clients
from huscf.federation.features import SHRINKAGE

RNG = np.random.default_rng(0)
MIXING = RNG.normal(size=(12, 12))


def summarize(means, count, seed=0, num_classes=1):
    """Clients that draw `count` samples around their means; the covariance is that of all."""
    rng = np.random.default_rng(seed)
    samples = [rng.normal(size=(count, 12)) @ MIXING + mean for mean in means]
    return ActivationSummary(
        list(range(len(means))),
        np.stack([each.mean(0) for each in samples]),
        np.full(len(means), float(count)),
        np.stack([np.cov(each.T) for each in samples]),
        np.zeros((len(means), 1, 12)),
    )


def distances(features):
    return np.linalg.norm(features[:, None] - features[None], axis=2)


def test_distances_of_many_samples_are_mahalanobis():
    means = RNG.normal(size=(5, 12)) * 4
    summary = summarize(means, 100_000)
    covariance = (1 - SHRINKAGE) * summary.covariance
    covariance += SHRINKAGE * np.trace(summary.covariance) / 12 * np.eye(12)
    inverse = np.linalg.inv(covariance)
    got = distances(describe_clients(summary))
    for i in range(5):
        for j in range(5):
            assert got[i, j] == pytest.approx(mahalanobis(means[i], means[j], inverse), abs=0.05)


def test_few_samples_do_not_move_clients_of_one_distribution_apart():
    squares = []
    for seed in range(20):
        summary = summarize(np.zeros((6, 12)), 20, seed)
        squares.append((distances(describe_clients(summary)) ** 2).mean())
    # Without the correction it is about 2 * 12 / 20 * 5 / 6 = 1.
    assert np.mean(squares) < 0.5


def test_coordinates_are_principal_centred_and_few():
    features = describe_clients(summarize(RNG.normal(size=(6, 12)) * 4, 1000))
    assert features.shape == (6, 5)
    assert features.mean(0) == pytest.approx(np.zeros(5), abs=1e-9)
    products = features.T @ features
    assert products == pytest.approx(np.diag(np.diag(products)), abs=1e-6)
    assert (np.diff(np.diag(products)) <= 1e-9).all()


def test_activations_without_any_variance_give_no_distances():
    zeros = np.zeros((3, 12))
    summary = ActivationSummary([0, 1, 2], zeros, np.ones(3), np.zeros((3, 12, 12)), zeros[:, None])
    assert describe_clients(summary).tolist() == [[0.0], [0.0], [0.0]]


def test_missing_classes_move_a_client_less_than_another_domain():
    """Ten classes far apart within a domain; clients lack three of them."""
    rng = np.random.default_rng(1)
    classes = rng.normal(size=(10, 12)) * 10
    shift = rng.normal(size=12) * 3
    clients = []
    for index in range(8):
        kept = classes[rng.permutation(10)[:7]]
        samples = kept[rng.integers(7, size=400)] + rng.normal(size=(400, 12)) * 0.5
        clients.append(samples + shift * (index >= 4))
    summary = ActivationSummary(
        list(range(8)),
        np.stack([each.mean(0) for each in clients]),
        np.full(8, 400.0),
        np.stack([np.cov(each.T) for each in clients]),
        np.zeros((8, 1, 12)),
    )
    got = distances(describe_clients(summary))
    same = np.equal.outer(np.arange(8) < 4, np.arange(8) < 4)
    assert got[same].max() < got[~same].min()
    plain = distances(summary.means)
    assert plain[same].max() > plain[~same].min()
