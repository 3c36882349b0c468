"""Rules that compare what rounds change, and clusters that clients choose, on figures by hand."""

from math import sqrt

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from huscf.errors import HuscfError
from huscf.federation import (
    CflClusters,
    ClusteredPolicy,
    IfcaClusters,
    PolicyMemory,
    RoundView,
    UpdateClusters,
    choose_clusters,
)
from huscf.federation.updates import cosines, link_updates


def test_the_cosine_of_changes_by_hand():
    updates = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, -3.0], [0.0, 0.0]])
    half = 1 / sqrt(2)
    expected = [[1, half, 0, 0], [half, 1, -half, 0], [0, -half, 1, 0], [0, 0, 0, 0]]
    assert cosines(updates) == pytest.approx(np.array(expected))


def test_clients_that_pull_apart_are_divided_and_others_are_not():
    """Mean norm 1; the norm of the mean is 0 for opposite changes, 1 for equal ones."""
    apart = np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    together = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    rule = CflClusters(0.4)
    assert rule.should_divide(apart) and not rule.should_divide(together)
    assert not rule.should_divide(apart[[0, 2]]), "two clients are left alone"
    labels = rule(np.concatenate([apart, together]), np.repeat([0, 1], 4))
    assert labels[:2].tolist() == [0, 0] and len(set(labels[2:4])) == 1
    assert labels[2] == 2 and labels[4:].tolist() == [1] * 4


def test_the_limit_on_norms_is_that_of_the_mean_over_the_mean_norm():
    """Two at an angle a to the first axis on either side, twice: the ratio is cos a."""
    for angle, wanted in ((1.1, False), (1.2, True)):
        pair = [[np.cos(angle), np.sin(angle)], [np.cos(angle), -np.sin(angle)]]
        assert CflClusters(0.4).should_divide(5 * np.array(pair * 2)) is wanted
    assert np.cos(1.1) > 0.4 > np.cos(1.2)


def test_complete_linkage_parts_where_average_linkage_would_not():
    """Angles in degrees, worked by hand: the farthest pair counts, or the mean."""
    angles = np.radians([0, 40, 75, 140])
    updates = np.stack([np.cos(angles), np.sin(angles)], 1)
    # 40 to 75 merge first; then complete: {0} to them 75, {140} to them 100.
    assert link_updates(updates, 2, "complete")[[0, 1, 2]].tolist() in ([0] * 3, [1] * 3)
    assert adjusted_rand_score(link_updates(updates, 3, "average"), [0, 1, 1, 2]) == 1
    assert link_updates(updates[:1], 1, "average").tolist() == [0]


def test_a_policy_gives_a_rule_the_changes_of_those_who_trained():
    policy = ClusteredPolicy(rule=CflClusters(), weighting="samples", warmup_rounds=1)
    sizes = {0: 10, 3: 30, 5: 10, 7: 10, 9: 20}
    updates = {c: np.array([1.0 if c < 4 else -1.0, 0.1]) for c in (0, 3, 5, 7)}
    start = dict.fromkeys(sizes, 0)
    assert policy.needs_updates and not policy.needs_features
    assert policy.first_clusters(list(sizes), 0) is None
    first = policy.decide(RoundView(0, 0, sizes, start, updates=updates), PolicyMemory())
    assert first.clusters == start, "a warm-up"
    second = policy.decide(RoundView(1, 0, sizes, start, updates=updates), first.memory)
    assert second.clusters[0] == second.clusters[3] != second.clusters[5] == second.clusters[7]
    assert second.clusters[9] in {0, 1}, "who was away stays with the cluster that took its label"
    own = [c for c in sizes if second.clusters[c] == second.clusters[0]]
    assert second.weights[3] == pytest.approx(30 / sum(sizes[c] for c in own))
    silent = policy.decide(RoundView(2, 0, sizes, second.clusters), second.memory)
    assert silent.clusters == second.clusters, "nobody trained"


def test_edges_are_found_anew_every_few_rounds_and_keep_their_names():
    policy = ClusteredPolicy(rule=UpdateClusters(2), recluster_every_n_rounds=2)
    sizes, memory, clusters = dict.fromkeys(range(4), 1), PolicyMemory(), dict.fromkeys(range(4), 0)
    for number, signs in enumerate([(1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, -1)]):
        updates = {c: np.array([sign, 0.01 * c]) for c, sign in enumerate(signs)}
        clusters = policy.decide(RoundView(number, 0, sizes, clusters, updates=updates), memory)
        clusters = clusters.clusters
        wanted = [(0, 0, 1, 1), (0, 0, 1, 1), (0, 1, 1, 1)][number]
        assert tuple(clusters.values()) in (wanted, tuple(1 - label for label in wanted))


def test_a_rule_of_ones_own_may_look_at_changes():
    class Signs:
        needs_updates, needs_features = True, False

        def __call__(self, updates, previous):
            return (updates[:, 0] > 0).astype(int)

    view = RoundView(0, 0, {0: 1, 1: 1}, {0: 0, 1: 0}, updates={0: np.ones(2), 1: -np.ones(2)})
    decision = ClusteredPolicy(rule=Signs()).decide(view, PolicyMemory())
    assert decision.clusters[0] != decision.clusters[1]
    with pytest.raises(HuscfError, match="is called with updates, previous"):
        Signs.__call__ = lambda self, updates: updates
        ClusteredPolicy(rule=Signs())


def test_clusters_begin_by_chance_and_of_equal_size():
    rule = IfcaClusters(3)
    labels = rule(np.zeros((8, 0)), 0)
    assert sorted(np.bincount(labels)) == [2, 3, 3]
    assert len({tuple(rule(np.zeros((8, 0)), seed)) for seed in range(5)}) > 1
    assert sorted(rule(np.zeros((2, 0)), 0)) == [0, 1]
    policy = ClusteredPolicy(rule=rule)
    assert policy.lets_choose and len(set(policy.first_clusters(range(8), 0).values())) == 3
    chosen = {0: 1, 1: 0, 2: 0}
    view = RoundView(4, 0, dict.fromkeys(chosen, 5), chosen)
    assert policy.decide(view, PolicyMemory()).clusters == chosen, "clients have chosen"


def test_everybody_goes_where_its_loss_is_least_and_no_cluster_dies():
    previous = {0: 0, 1: 0, 2: 1, 3: 1, 4: 1}
    losses = {0: {0: 1.0, 1: 2.0}, 1: {0: 3.0, 1: 2.0}, 2: {0: 1.0, 1: 1.0}, 3: {0: 0.5, 1: 0.6}}
    assert choose_clusters(losses, previous) == {0: 0, 1: 1, 2: 1, 3: 0, 4: 1}
    # All of cluster 0 would leave: client 0 loses least by staying.
    losses = {0: {0: 2.0, 1: 1.9}, 1: {0: 3.0, 1: 2.0}}
    assert choose_clusters(losses, {0: 0, 1: 0, 2: 1}) == {0: 0, 1: 1, 2: 1}
    # Two that would change places.
    losses = {0: {0: 2.0, 1: 1.0}, 1: {0: 1.0, 1: 2.0}}
    assert choose_clusters(losses, {0: 0, 1: 1}) == {0: 0, 1: 1}


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        (CflClusters, {"stationary": 1.5}, "stationary is 1.5"),
        (CflClusters, {"min_clients": 1}, "min_clients is 1"),
        (UpdateClusters, {"num_clusters": 0}, "num_clusters is 0"),
        (IfcaClusters, {"num_clusters": 0}, "num_clusters is 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(rule, options, words):
    with pytest.raises(HuscfError, match=words):
        rule(**options)
