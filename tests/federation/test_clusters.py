import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score

from huscf.errors import HuscfError
from huscf.federation import (
    AgglomerativeClusters,
    EachAlone,
    GivenClusters,
    KMeansClusters,
    OneCluster,
    assign_to_nearest,
    keep_unless_better,
    match_labels,
    mean_silhouette,
)

RULES = [KMeansClusters, AgglomerativeClusters]


def groups(count, members, spread=1.0, seed=0):
    """Features in units of within-client spread: centres some 10 apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 12)) * 3
    truth = np.repeat(np.arange(count), members)
    return centres[truth] + rng.normal(size=(len(truth), 12)) * spread, truth


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_the_number_of_clusters_is_found(rule, count, seed):
    features, truth = groups(count, 4, spread=0.5, seed=seed)
    assert adjusted_rand_score(truth, rule()(features, seed)) == 1.0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_one_cluster(rule, seed):
    features, _ = groups(1, 8, seed=seed)
    assert set(rule()(features, seed)) == {0}


def test_groups_closer_than_samples_of_a_client_are_one_cluster():
    features, truth = groups(2, 4)
    tiny = features / 20
    assert mean_silhouette(tiny, truth) > 0.33
    assert set(KMeansClusters()(tiny, 0)) == {0}
    assert adjusted_rand_score(truth, KMeansClusters(min_distance=0.0)(tiny, 0)) == 1.0


@pytest.mark.parametrize("rule", RULES)
def test_a_singleton_is_legal(rule):
    features, truth = groups(2, 5)
    found = rule()(features[:6], 0)
    assert adjusted_rand_score(truth[:6], found) == 1.0


@pytest.mark.parametrize("rule", RULES)
def test_fixed_numbers(rule):
    features, _ = groups(2, 3)
    assert len(set(rule(num_clusters=3)(features, 0))) == 3
    assert len(set(rule(num_clusters=99)(features, 0))) == 6
    assert rule(num_clusters=1)(features[:1], 0).tolist() == [0]
    with pytest.raises(HuscfError, match="num_clusters is 0"):
        rule(num_clusters=0)


@pytest.mark.parametrize("rule", RULES)
def test_clients_at_one_place_are_one_cluster(rule):
    assert rule()(np.zeros((5, 1)), 0).tolist() == [0] * 5
    assert rule(num_clusters=3)(np.repeat([[0.0], [1.0]], 3, axis=0), 0).max() == 1


def test_one_cluster_and_each_alone():
    features, _ = groups(2, 3)
    assert OneCluster()(features, 0).tolist() == [0] * 6
    assert EachAlone()(features, 0).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_previous_clusters_stay_unless_the_new_ones_are_clearly_better():
    features, truth = groups(2, 4, spread=3.0)
    moved = truth.copy()
    moved[0] = 1
    gain = silhouette_score(features, truth) - silhouette_score(features, moved)
    assert 0 < gain < 1
    rule = KMeansClusters()
    assert keep_unless_better(rule, features, truth, moved, gain + 0.01) is moved
    assert keep_unless_better(rule, features, truth, moved, gain - 0.01) is truth
    one = np.zeros(8, dtype=int)
    assert keep_unless_better(rule, features, truth, one, 0.5) is truth


@pytest.mark.parametrize("kind", RULES)
def test_several_clusters_become_one_below_a_lower_limit_than_one_becomes_several(kind):
    features, truth = groups(2, 4, spread=2.5)
    silhouette = silhouette_score(features, truth)
    one = np.zeros(8, dtype=int)
    for limit, kept in ((silhouette + 0.01, truth), (silhouette + 0.1, one)):
        rule = kind(min_silhouette=limit)
        found = rule(features, 0)
        assert set(found) == {0}
        assert (keep_unless_better(rule, features, found, truth, 0.05) == kept).all()
    # Centres that are too close are one domain whatever the silhouette.
    rule = kind(min_silhouette=silhouette + 0.01, min_distance=1e3)
    assert keep_unless_better(rule, features, one, truth, 0.05) is one
    # A function of one's own has no limits that are known.
    assert keep_unless_better(lambda features, seed: one, features, one, truth, 0.5) is one


def test_two_clients_are_parted_by_their_distance():
    for rule in RULES:
        assert rule()(np.array([[0.0, 0.0], [3.0, 3.9]]), 0).tolist() == [0, 0]
        assert rule()(np.array([[0.0, 0.0], [3.0, 4.1]]), 0).tolist() == [0, 1]


def test_of_numbers_that_are_about_as_good_the_largest_counts():
    # Four groups of three; two of them are so near each other that three is slightly better.
    centres = np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0], [5.5, 12.0]])
    spots = np.array([[0.0, 0.0], [1.8, 0.0], [0.0, 1.8]])
    features = (centres[:, None] + spots).reshape(-1, 2)
    truth = np.repeat(np.arange(4), 3)
    three = np.minimum(truth, 2)
    lead = mean_silhouette(features, three) - mean_silhouette(features, truth)
    assert 0 < lead < 0.05
    for rule in RULES:
        assert adjusted_rand_score(truth, rule()(features, 0)) == 1.0
        assert adjusted_rand_score(three, rule(tolerance=0.0)(features, 0)) == 1.0
    # Dividing a cluster of the last round needs no gain, merging two does.
    rule = KMeansClusters()
    assert keep_unless_better(rule, features, truth, three, 0.05) is truth
    assert keep_unless_better(rule, features, truth, three, lead / 2) is three
    assert keep_unless_better(rule, features, three, truth, 0.05) is truth


def test_a_larger_number_that_only_leaves_a_client_alone_does_not_count():
    # Four groups of three, one of whose clients lacks so much that five is about as good.
    centres = np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0], [12.0, 12.0]])
    spots = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    features = (centres[:, None] + spots).reshape(-1, 2)
    features[2] -= [5.2, 0.0]
    truth = np.repeat(np.arange(4), 3)
    five = np.where(np.arange(12) == 2, 4, truth)
    lead = mean_silhouette(features, truth) - mean_silhouette(features, five)
    assert 0 < lead < 0.05
    for rule in RULES:
        assert adjusted_rand_score(truth, rule()(features, 0)) == 1.0
        # Farther still five is the better number, and being alone is right.
        farther = features.copy()
        farther[2] -= [20.0, 0.0]
        assert adjusted_rand_score(five, rule()(farther, 0)) == 1.0


def test_a_new_client_goes_to_the_nearest_centre_and_nobody_else_moves():
    features = np.array([[0.0], [1.0], [10.0], [11.0], [7.0], [2.0]])
    labels = np.array([3, 3, 0, 0, 99, 99])
    known = np.array([True, True, True, True, False, False])
    assert assign_to_nearest(features, labels, known).tolist() == [3, 3, 0, 0, 0, 3]


def test_labels_are_kept_from_round_to_round():
    previous = {0: 0, 1: 0, 2: 1, 3: 1}
    assert match_labels({0: 1, 1: 1, 2: 0, 3: 0}, previous) == previous
    assert match_labels({0: 2, 1: 2, 2: 0, 3: 0, 4: 1}, previous) == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2}
    assert match_labels({0: 0, 1: 0, 2: 0, 3: 0}, {0: 0, 1: 1, 2: 1, 3: 1}) == dict.fromkeys(
        range(4), 0
    )
    assert match_labels({5: 3, 6: 1}, {}) in ({5: 0, 6: 1}, {5: 1, 6: 0})


def test_clients_that_were_not_seen_stay_with_their_old_fellows_or_on_their_own():
    previous = {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2}
    # Client 0 was alone: the others' clusters must not become its own.
    assert match_labels({1: 5, 2: 5, 3: 7, 4: 7, 5: 7}, previous) == previous
    # Client 5 stays with 3 and 4, whatever their new cluster is called.
    assert match_labels({0: 0, 1: 0, 2: 0, 3: 1, 4: 1}, previous) == {
        **dict.fromkeys((0, 1, 2), 0),
        **dict.fromkeys((3, 4, 5), 1),
    }
    # A cluster of new clients alone takes over nobody's label.
    assert match_labels({7: 0, 8: 0, 1: 1}, {0: 0, 1: 1}) == {0: 0, 1: 1, 7: 2, 8: 2}


@pytest.mark.parametrize(
    ("members", "limits"), [(1, (4.98, 5.02)), (4, (1.48, 1.52))], ids=["two clients", "two groups"]
)
def test_distances_that_wobble_around_a_limit_do_not_merge_and_part_in_turns(members, limits):
    rule, previous, counts = KMeansClusters(), np.zeros(2 * members, dtype=int), []
    spread = 0.05 * np.random.default_rng(0).normal(size=(2, members, 2))
    spread -= spread.mean(1, keepdims=True)
    for gap in (*limits, *limits):
        features = (spread + np.array([[[0, 0]], [[gap, 0]]])).reshape(-1, 2)
        previous = keep_unless_better(rule, features, rule(features, 0), previous, 0.05)
        counts.append(len(set(previous)))
    assert counts == [1, 2, 2, 2]
    closer = (spread + np.array([[[0, 0]], [[0.9 * limits[0], 0]]])).reshape(-1, 2)
    assert not keep_unless_better(rule, closer, rule(closer, 0), previous, 0.05).any()


@pytest.mark.parametrize("rule", RULES)
def test_there_is_no_largest_number_of_clusters_unless_one_is_given(rule):
    features, truth = groups(11, 3, spread=0.3)
    assert adjusted_rand_score(truth, rule()(features, 0)) == 1.0
    assert len(set(rule(max_clusters=8)(features, 0))) <= 8


def test_given_clusters_are_taken_as_they_are_and_need_every_client_once():
    rule = GivenClusters([[0, 3], [1], [4, 2]])
    assert not rule.needs_features
    assert rule(np.zeros((5, 0)), 0).tolist() == [0, 1, 2, 0, 2]
    with pytest.raises(HuscfError, match="names 5 clients, and there are 4"):
        rule(np.zeros((4, 0)), 0)
    for clusters in ([], [[0, 1], [1]], [[1, 2]]):
        with pytest.raises(HuscfError, match="needs every client, 0 to the last, once"):
            GivenClusters(clusters)
