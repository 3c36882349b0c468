import numpy as np
import pytest
from scipy.stats import entropy

from huscf.federation import kl_from_others, member_weights


def test_divergence_equals_scipy_and_is_zero_for_a_singleton():
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(7), size=5)
    labels = np.array([0, 0, 0, 1, 2])
    got = kl_from_others(rows, labels)
    expected = [
        entropy(rows[0], rows[[1, 2]].mean(0)),
        entropy(rows[1], rows[[0, 2]].mean(0)),
        entropy(rows[2], rows[[0, 1]].mean(0)),
        0.0,
        0.0,
    ]
    assert got == pytest.approx(expected)


def test_weights_equal_the_formula_within_each_cluster():
    sizes, clusters = {0: 10, 1: 30, 2: 5}, {0: 0, 1: 0, 2: 1}
    divergences = {0: 0.0, 1: 0.5, 2: 0.3}
    weights = member_weights(sizes, clusters, divergences, "kld", beta=2.0)
    other = 30 * np.exp(-1.0)
    assert weights == pytest.approx({0: 10 / (10 + other), 1: other / (10 + other), 2: 1.0})
    assert member_weights(sizes, clusters, divergences, "kld", 0.0) == member_weights(
        sizes, clusters, divergences, "samples"
    )
    assert member_weights(sizes, clusters, {}, "uniform") == {0: 0.5, 1: 0.5, 2: 1.0}


def test_nobody_who_counts_is_averaged_uniformly():
    assert member_weights({0: 0, 1: 0, 2: 3}, {0: 0, 1: 0, 2: 1}, {}) == {0: 0.5, 1: 0.5, 2: 1.0}
