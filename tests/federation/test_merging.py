"""Clusters by merging: numbers without a ceiling, unequal sizes, few samples, hysteresis."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from huscf.errors import HuscfError
from huscf.federation import ActivationSummary, MergedClusters


def summarize(truth, gap=4.0, count=64, num_features=16, seed=0, labels=None):
    """Clients that draw samples around the centre of their domain, and of the classes they have.

    Args:
        truth: Domain of each client.
        gap: Distance of any two domains in units of a sample's spread.
        count: Samples of each client.
        num_features: Of them, the first 8 tell domains apart, or fewer the fewer there are.
        seed: Of everything.
        labels: (N, 10) odds of ten classes, by client; None is one class.
    """
    rng = np.random.default_rng(seed)
    mixing = np.eye(num_features) + 0.2 * rng.normal(size=(num_features, num_features))
    centres = np.linalg.qr(rng.normal(size=(num_features, num_features)))[0] * gap / np.sqrt(2)
    classes = 1.5 * rng.normal(size=(10, num_features))
    each = []
    for client, domain in enumerate(truth):
        samples = rng.normal(size=(count, num_features)) + centres[domain]
        if labels is not None:
            samples += classes[rng.choice(10, count, p=labels[client])]
        each.append(samples @ mixing)
    return ActivationSummary(
        list(range(len(truth))),
        np.stack([samples.mean(0) for samples in each]),
        np.full(len(truth), float(count)),
        np.stack([np.cov(samples.T) for samples in each]),
        np.zeros((len(truth), 1, 1)),
    )


def find(summary, previous=None, **options):
    before = np.full(len(summary.client_ids), -1) if previous is None else np.array(previous)
    return MergedClusters(**options)(summary, before)


@pytest.mark.parametrize(
    "sizes", [[6], [1, 1], [1, 10], [1, 1, 10], [1, 3, 8], [2, 9, 19], [5] * 4]
)
@pytest.mark.parametrize("seed", range(3))
def test_domains_are_found_however_unequal(sizes, seed):
    truth = np.repeat(np.arange(len(sizes)), sizes)
    found = find(summarize(truth, seed=seed))
    assert adjusted_rand_score(truth, found) == 1.0


@pytest.mark.parametrize("count", [9, 10, 14])
def test_there_is_no_largest_number_of_clusters(count):
    truth = np.repeat(np.arange(count), 3)
    assert len(set(find(summarize(truth)))) == count


@pytest.mark.parametrize("num_features", [8, 32, 64])
def test_the_same_distance_serves_few_and_many_features(num_features):
    one = find(summarize(np.zeros(12, dtype=int), num_features=num_features))
    assert set(one) == {0}
    truth = np.repeat([0, 1], 6)
    assert adjusted_rand_score(truth, find(summarize(truth, num_features=num_features))) == 1.0


@pytest.mark.parametrize("seed", range(6))
def test_few_samples_are_no_reason_to_part_clients(seed):
    summary = summarize(np.zeros(10, dtype=int), count=16, num_features=32, seed=seed)
    assert set(find(summary)) == {0}


def test_two_single_clients_are_parted_only_at_a_larger_distance_whoever_else_there_is():
    """A pair that neither part from the rest nor from each other beyond any doubt stays a pair."""
    truth = np.repeat([0, 1], 4)
    summary = summarize(np.append(truth, [2, 2]), count=500)
    summary.means[9, :] += 0.35 * np.sqrt(np.diag(summary.covariances[9]))
    pair = summary.select([8, 9])
    assert not find(pair).any()
    assert find(pair, distance=0.25).any()
    found = find(summary)
    assert found[8] == found[9] and len(set(found)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_a_client_that_lacks_classes_is_not_of_another_domain(seed):
    rng = np.random.default_rng(seed)
    labels = np.ones((12, 10))
    for row in labels:
        row[rng.permutation(10)[:3]] = 0
    labels /= labels.sum(1, keepdims=True)
    assert set(find(summarize(np.zeros(12, dtype=int), labels=labels, seed=seed))) == {0}
    truth = np.repeat([0, 1], 6)
    found = find(summarize(truth, gap=6.0, labels=labels, seed=seed))
    assert adjusted_rand_score(truth, found) == 1.0


def test_merging_asks_for_more_than_staying():
    """Two domains whose distance wobbles around the limit neither merge nor part in turns."""
    truth = np.repeat([0, 1], 4)
    parted = [gap for gap in np.arange(0.5, 4, 0.05) if find(summarize(truth, gap)).any()]
    limit = min(parted)
    for start in (np.zeros(8, dtype=int), truth):
        labels = start
        for wobble in (-0.05, 0.05, -0.1, 0.1):
            labels = find(summarize(truth, limit + wobble), labels)
            assert adjusted_rand_score(start, labels) == 1.0
    # Far beyond the limit, or far below, what was does not matter.
    assert adjusted_rand_score(truth, find(summarize(truth, 2 * limit), np.zeros(8, int))) == 1.0
    assert set(find(summarize(truth, limit / 2), truth)) == {0}


@pytest.mark.parametrize("seed", range(3))
def test_where_every_client_differs_they_are_one_domain(seed):
    """As speakers do: to be alone would be of no use, unless the difference is very large."""
    rng = np.random.default_rng(seed)
    summary = summarize(np.zeros(6, dtype=int), num_features=32)
    summary.means[:] += rng.normal(size=summary.means.shape) * 0.6
    assert set(find(summary)) == {0}
    assert len(set(find(summary, alone_distance=0.5))) > 3
    summary.means[:] *= 5
    assert len(set(find(summary))) > 3


def test_two_clients_are_parted_only_at_a_larger_distance():
    def measure(gap):
        return find(summarize([0, 1], gap, count=2000)).any()

    parted = [gap for gap in np.arange(0.5, 6, 0.05) if measure(gap)]
    pairs = [
        gap for gap in np.arange(0.5, 6, 0.05) if find(summarize([0, 0, 1, 1], gap, 2000)).any()
    ]
    assert min(parted) / min(pairs) == pytest.approx(1.6, abs=0.15)


def test_a_first_look_at_few_does_not_bind_many():
    """Two domains that were merged when one client of each was there part when more come."""
    truth = np.repeat([0, 1], 8)
    gaps = [gap for gap in np.arange(0.5, 6, 0.05) if find(summarize(truth, gap)).any()]
    summary = summarize(truth, min(gaps) + 0.15)
    assert not find(summary.select([0, 8])).any()
    previous = np.full(16, -1)
    previous[[0, 8]] = 0
    assert adjusted_rand_score(truth, find(summary, previous)) == 1.0


def test_new_clients_join_the_old_clusters():
    truth = np.array([0, 0, 1, 1, 0, 1])
    found = find(summarize(truth), [0, 0, 1, 1, -1, -1])
    assert adjusted_rand_score(truth, found) == 1.0


def test_a_client_without_variance_and_one_alone():
    summary = summarize([0, 0, 0])
    flat = ActivationSummary(
        [0, 1], summary.means[:2], summary.counts[:2], 0 * summary.covariances[:2], summary.maps[:2]
    )
    assert find(flat).tolist() == [0, 0]
    assert find(summary.select([2])).tolist() == [0]


def test_options_are_refused_by_name():
    with pytest.raises(HuscfError, match="distance is -1"):
        MergedClusters(distance=-1)
    with pytest.raises(HuscfError, match="hysteresis is 1"):
        MergedClusters(hysteresis=1)
