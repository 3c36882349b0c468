"""FeGAN's weights and groups against figures worked by hand."""

from math import exp, log

import numpy as np
import pytest

from huscf.errors import HuscfError
from huscf.federation import ClusteredPolicy, FeganWeights, OneCluster, PolicyMemory, RoundView
from huscf.federation.fegan import grow_group, label_divergences

COUNTS = np.array([[30, 0], [0, 10], [10, 10]])


def test_the_divergence_and_the_weight_by_hand():
    # All together: 40 and 20 of 60.
    expected = [log(3 / 2), log(3), 0.5 * log(0.5 * 3 / 2) + 0.5 * log(0.5 * 3)]
    assert label_divergences(COUNTS) == pytest.approx(expected)
    weights = FeganWeights(strength=2.0)(COUNTS.sum(1), COUNTS, 0)
    scores = [exp(2 * kl * n / 60) for kl, n in zip(expected, (30, 10, 20), strict=True)]
    assert weights == pytest.approx([score / sum(scores) for score in scores])
    assert FeganWeights(0.0)(COUNTS.sum(1), COUNTS, 0) == pytest.approx([1 / 3] * 3)
    less = FeganWeights(-2.0)(COUNTS.sum(1), COUNTS, 0)
    assert np.argsort(less).tolist() == np.argsort(weights)[::-1].tolist()


def test_groups_are_balanced_and_change():
    counts = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0], [0, 0, 0]])
    groups = [grow_group(counts, np.arange(4), 3, seed) for seed in range(12)]
    assert all(counts[group].sum(0).tolist() == [9, 9, 9] for group in groups)
    assert {tuple(group) for group in groups} == {(0, 1, 2), (1, 2, 3)}
    assert grow_group(counts, np.arange(4), 9, 0).tolist() == [0, 1, 2, 3]
    weights = FeganWeights(group_size=3)(counts.sum(1), counts, 0)
    assert weights[4] == 0 and (weights > 0).sum() == 3 and weights.sum() == pytest.approx(1)


def test_a_policy_asks_for_labels_and_weighs_within_clusters():
    policy = ClusteredPolicy(rule=OneCluster(), weighting=FeganWeights())
    sizes = {3: 30, 5: 10, 8: 20}
    table = dict(zip(sizes, map(tuple, COUNTS), strict=True))
    view = RoundView(0, 0, sizes, dict.fromkeys(sizes, 0), label_counts=table)
    decision = policy.decide(view, PolicyMemory())
    expected = FeganWeights()(COUNTS.sum(1), COUNTS, 0)
    assert policy.needs_labels and not ClusteredPolicy().needs_labels
    assert list(decision.weights.values()) == pytest.approx(expected)


def test_without_divergence_the_papers_weights_are_those_of_federated_averaging():
    """beta = 0 is FedAvg; weights are positive and sum to 1 for any beta."""
    sizes = {0: 30, 1: 10, 2: 60}
    view = RoundView(0, 0, sizes, dict.fromkeys(sizes, 0))
    plain = ClusteredPolicy(OneCluster(), weighting="kld", beta=0.0, size_exponent=1.0)
    weights = plain.decide(view, PolicyMemory()).weights
    assert weights == pytest.approx({0: 0.3, 1: 0.1, 2: 0.6})


@pytest.mark.parametrize("options", [{"strength": float("nan")}, {"group_size": 0}])
def test_numbers_that_make_no_sense_are_refused(options):
    with pytest.raises(HuscfError, match=next(iter(options))):
        FeganWeights(**options)
