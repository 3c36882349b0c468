"""Positions over rounds, and clients that send what no sample yields."""

import numpy as np
import pytest

from huscf.federation import (
    ActivationSummary,
    MergedClusters,
    find_loud,
    limit_covariances,
    pool_covariances,
    remember,
)
from huscf.federation.memory import AGEING
from tests.federation.test_merging import summarize

SIZES = dict.fromkeys(range(20), 1000)


def show(client_ids, means, counts, frame="blocks"):
    covariances = np.repeat(np.eye(2)[None], len(client_ids), axis=0)
    means = np.array(means, dtype=float)
    return ActivationSummary(
        client_ids, means, np.array(counts, dtype=float), covariances, means[:, None], frame
    )


def test_a_position_is_kept_aged_and_renewed():
    known = remember(None, show([0, 1], [[0, 0], [5, 5]], [100, 100]), SIZES)
    known = remember(known, show([1, 2], [[7, 5], [1, 1]], [100, 50]), SIZES)
    assert known.client_ids == [0, 1, 2]
    assert known.means[0].tolist() == [0, 0] and known.counts[0] == 100
    share = 100 / (100 + AGEING * 100)
    assert known.means[1] == pytest.approx([5 + 2 * share, 5])
    # As many samples of equal weight would be worth.
    assert known.counts[1] == pytest.approx(180**2 / (100 + 0.64 * 100))
    assert known.covariances[1, 0, 0] == pytest.approx(1 + share * (1 - share) * 4)
    assert known.covariances[1, 0, 1] == 0


def test_a_client_has_no_more_samples_than_it_owns():
    known = None
    for _ in range(9):
        known = remember(known, show([0], [[1, 2]], [30]), {0: 40})
    assert known.counts.tolist() == [40]


def test_other_frames_and_clients_that_left_are_forgotten():
    known = remember(None, show([0, 1], [[0, 0], [5, 5]], [9, 9]), SIZES)
    assert remember(known, show([2], [[0, 0]], [9], "other"), SIZES).client_ids == [2]
    assert remember(known, show([2], [[0, 0]], [9], None), SIZES).client_ids == [2]
    assert remember(known, show([2], [[0, 0]], [9]), {1: 9, 2: 9}).client_ids == [1, 2]
    assert remember(known, None, SIZES) is known
    assert remember(show([0], [[0, 0]], [9], None), None, SIZES) is None


@pytest.mark.parametrize("factor", [0.0, 1e-8, 100.0, 1e8, 1e25, 1e200, np.nan, np.inf])
def test_one_client_neither_hides_nor_merges_the_others(factor):
    truth = np.repeat([0, 1, 2], 4)
    summary = summarize(truth)
    with np.errstate(all="ignore"):
        summary.means[0] *= factor
        summary.covariances[0] *= np.float64(factor) ** 2
    loud = find_loud(summary)
    assert loud == {0}
    others = summary.select([c for c in summary.client_ids if c not in loud])
    assert (
        MergedClusters()(others, np.full(11, -1)).tolist()
        == MergedClusters()(summarize(truth).select(range(1, 12)), np.full(11, -1)).tolist()
    )


@pytest.mark.parametrize("factor", [0.2, 3.0, 9.0])
def test_one_that_is_not_loud_enough_to_be_told_changes_nothing_either(factor):
    truth = np.repeat([0, 1, 2], 4)
    summary = summarize(truth)
    summary.means[0] *= factor
    summary.covariances[0] *= factor**2
    assert not find_loud(summary)
    found = MergedClusters()(summary, np.full(12, -1))[1:]
    assert len({*found[:3]}) == len({*found[3:7]}) == len({*found[7:]}) == 1
    assert len({found[0], found[3], found[7]}) == 3


def test_one_that_varies_from_domain_to_domain_alone_does_not_merge_them():
    truth = np.repeat([0, 1, 2], 4)
    summary = summarize(truth, gap=2.8, num_features=64)
    gap = summary.means[5] - summary.means[9]
    direction = gap / np.linalg.norm(gap)
    summary.covariances[0] = 50 * np.trace(summary.covariances[0]) * np.outer(direction, direction)
    assert not find_loud(summary)
    found = MergedClusters()(summary, np.full(12, -1))
    assert len({*found[4:8]}) == len({*found[8:]}) == 1
    assert len({found[1], found[4], found[8]}) == 3


def test_covariances_are_limited_by_the_others_in_every_direction():
    covariances = np.stack([np.eye(3)] * 4)
    covariances[3] = np.diag([0.5, 1.0, 9.0])
    limited = limit_covariances(covariances, np.full(4, 20.0))
    assert limited[:3] == pytest.approx(covariances[:3])
    # The others have 1, and a fifth of their mean variance for what they cannot know.
    assert limited[3] == pytest.approx(np.diag([0.5, 1.0, 4 * 1.2]))


def test_who_is_loud_is_told_by_those_who_are_remembered():
    truth = np.repeat([0, 1], 4)
    summary = summarize(truth)
    whole = ActivationSummary(**{**vars(summary), "frame": "blocks"})
    pair = whole.select([0, 1])
    pair.covariances[1] *= 1e4
    assert find_loud(pair) == frozenset()
    assert find_loud(pair, whole) == {1}
    assert find_loud(ActivationSummary(**{**vars(pair), "frame": None}), whole) == frozenset()


def test_two_equal_samples_are_not_a_fault():
    summary = summarize(np.zeros(5, dtype=int))
    summary.covariances[0] = 0
    summary.counts[0] = 2
    assert find_loud(summary) == frozenset()
    summary.counts[0] = 20
    assert find_loud(summary) == {0}


def test_the_pooled_covariance_is_the_mean_by_degrees_of_freedom_with_a_limit():
    covariances = np.stack([np.eye(2), 3 * np.eye(2), 2 * np.eye(2)])
    pooled = pool_covariances(covariances, np.array([11.0, 21.0, 1.0]))
    assert pooled == pytest.approx((10 * 1 + 20 * 3) / 30 * np.eye(2))
    covariances[1] *= 1e9
    pooled = pool_covariances(covariances, np.array([11.0, 21.0, 1.0]))
    assert pooled == pytest.approx((10 * 1 + 20 * 4 * 2) / 30 * np.eye(2))
    covariances[1] = np.inf
    pooled = pool_covariances(covariances, np.array([11.0, 21.0, 1.0]))
    assert pooled == pytest.approx(np.eye(2))
