import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch.distributions import MultivariateNormal, kl_divergence

from huscf.errors import HuscfError
from huscf.federation import gaussian_divergences, member_weights, position_divergences

LABELS = np.array([0, 0, 0, 1, 2])


def test_divergence_of_positions_equals_scipy_and_is_zero_for_a_singleton():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(5, 2, 7))
    p = softmax(maps, axis=2)
    got = position_divergences(maps, LABELS)
    expected = [
        np.mean([entropy(p[k, c], p[others, c].mean(0)) for c in range(2)])
        for k, others in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1]))
    ]
    assert got == pytest.approx([*expected, 0.0, 0.0])


def test_divergence_of_normal_distributions_equals_torch():
    features = np.random.default_rng(0).normal(size=(5, 3))
    got = gaussian_divergences(features, LABELS)
    for k, others in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1])):
        own, rest = (
            MultivariateNormal(torch.tensor(mean), torch.eye(3, dtype=torch.float64))
            for mean in (features[k], features[others].mean(0))
        )
        assert got[k] == pytest.approx(kl_divergence(own, rest).item())
    assert got[3:].tolist() == [0.0, 0.0]


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
    rooted = member_weights(sizes, clusters, divergences, "kld", 2.0, size_exponent=0.5)
    other = 30**0.5 * np.exp(-1.0)
    assert rooted == pytest.approx(
        {0: 10**0.5 / (10**0.5 + other), 1: other / (10**0.5 + other), 2: 1.0}
    )


def test_a_function_of_ones_own_and_a_client_that_counts_nothing():
    sizes, clusters = {0: 10, 1: 40, 2: 5, 3: 0}, {0: 0, 1: 0, 2: 1, 3: 0}
    divergences = {0: 1.0, 1: 0.0, 2: 0.3}
    weights = member_weights(sizes, clusters, divergences, lambda n, kld: np.sqrt(n) + kld)
    own, other = 10**0.5 + 1.0, 40**0.5
    total = own + other
    assert weights == pytest.approx({0: own / total, 1: other / total, 2: 1.0, 3: 0.0})
    assert member_weights(sizes, clusters, {}, "uniform") == {0: 0.5, 1: 0.5, 2: 1.0, 3: 0.0}


def test_very_large_divergences_keep_their_ratio():
    weights = member_weights({0: 1, 1: 1}, {0: 0, 1: 0}, {0: 5000.0, 1: 5001.0}, "kld", beta=1.0)
    assert weights[1] / weights[0] == pytest.approx(np.exp(-1))


def test_nothing_overflows():
    clusters = dict.fromkeys(range(3), 0)
    sizes = {0: 600, 1: 300, 2: 100}
    for_outliers = member_weights(sizes, clusters, {0: 0.0, 1: 800.0, 2: 1.0}, "kld", beta=-1.0)
    assert for_outliers == pytest.approx({0: 0.0, 1: 1.0, 2: 0.0})
    steep = member_weights(sizes, clusters, {}, "kld", size_exponent=400.0)
    assert steep == pytest.approx({0: 1.0, 1: 0.0, 2: 0.0})
    huge = member_weights(sizes, clusters, {}, lambda n, kld: n * 1e305)
    assert huge == pytest.approx({0: 0.6, 1: 0.3, 2: 0.1})


def test_nobody_who_counts_is_averaged_uniformly():
    assert member_weights({0: 0, 1: 0, 2: 3}, {0: 0, 1: 0, 2: 1}, {}) == {0: 0.5, 1: 0.5, 2: 1.0}


@pytest.mark.parametrize(
    "rule",
    [
        lambda n, kld: n[:2],
        lambda n, kld: n * np.nan,
        lambda n, kld: n - 20.0,
        lambda n, kld: None,
        lambda n, kld: ["a", "b", "c"],
    ],
)
def test_functions_that_return_no_weights_are_refused(rule):
    sizes, clusters = {0: 10, 1: 20, 2: 30}, {0: 0, 1: 0, 2: 1}
    with pytest.raises(HuscfError, match=r"federation.weighting must return 3 finite numbers"):
        member_weights(sizes, clusters, {}, rule)


def test_functions_that_return_no_array_are_refused():
    with pytest.raises(HuscfError, match=r"federation.weighting must return an array"):
        member_weights({0: 1, 1: 2}, {0: 0, 1: 0}, {}, lambda n, kld: [[1.0], [1.0, 2.0]])
