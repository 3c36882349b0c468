"""A policy by itself: values in, values out, without a trainer or a module."""

import io

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from huscf.errors import CheckpointError, HuscfError
from huscf.federation import (
    ActivationSummary,
    ClusteredPolicy,
    EachAlone,
    KMeansClusters,
    PolicyMemory,
    RoundView,
)

SIZES = {c: 10 * (c + 1) for c in range(6)}
TOGETHER = dict.fromkeys(range(6), 0)
DOMAIN = {c: int(c > 2) for c in range(6)}


def observe(client_ids, gap=10.0, seed=0, frame="blocks", loud=()):
    """Clients 0 to 2 and the others, `gap` standard deviations of a sample apart."""
    rng = np.random.default_rng(seed)
    means = np.array([[gap * DOMAIN.get(client, client % 2), 0, 0, 0] for client in client_ids])
    means = means + 0.1 * rng.normal(size=means.shape)
    counts = np.full(len(client_ids), 100.0)
    covariances = np.repeat(np.eye(4)[None], len(client_ids), axis=0)
    for client in loud:
        means[list(client_ids).index(client)] *= 1e4
        covariances[list(client_ids).index(client)] *= 1e8
    return ActivationSummary(list(client_ids), means, counts, covariances, means[:, None], frame)


def go_through(policy, rounds, sizes=SIZES, memory=None):
    """Yield the decisions of rounds in which these summaries are observed."""
    memory, clusters = memory or PolicyMemory(), dict.fromkeys(sizes, 0)
    for number, summary in enumerate(rounds):
        decision = policy.decide(RoundView(number, 7, sizes, clusters, summary), memory)
        memory, clusters = decision.memory, decision.clusters
        yield decision


def test_a_decision_changes_neither_view_nor_memory():
    policy, memory = ClusteredPolicy(weighting="samples"), PolicyMemory()
    view = RoundView(0, 7, SIZES, TOGETHER, observe(range(6)), frozenset({5}))
    decision = policy.decide(view, memory)
    assert len({decision.clusters[c] for c in (0, 1, 2)}) == 1
    assert len({decision.clusters[c] for c in (3, 4, 5)}) == 1
    assert decision.clusters[0] != decision.clusters[3]
    assert decision.weights == pytest.approx(
        {0: 1 / 6, 1: 2 / 6, 2: 3 / 6, 3: 4 / 9, 4: 5 / 9, 5: 0.0}
    )
    assert view.clusters == TOGETHER and memory == PolicyMemory()
    assert decision.memory.placed == frozenset(range(6))
    assert policy.decide(view, memory).clusters == decision.clusters
    assert decision.figures()["num_clusters"] == 2
    assert decision.figures()["max_weight"] == pytest.approx(5 / 9)


def test_memory_goes_through_a_file_without_pickles():
    policy, file = ClusteredPolicy(), io.BytesIO()
    first, second = go_through(policy, [observe([0, 3]), observe([1, 4], seed=1)])
    torch.save(first.memory.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    restored = PolicyMemory.from_state_dict(saved)
    again = policy.decide(RoundView(1, 7, SIZES, first.clusters, observe([1, 4], seed=1)), restored)
    assert again.clusters == second.clusters
    assert again.divergences == second.divergences
    with pytest.raises(CheckpointError, match="it lacks compared, known, last_seen, loud"):
        PolicyMemory.from_state_dict({"placed": []})


def test_nobody_observed_keeps_clusters_and_weighs_all():
    before = {c: c % 2 for c in range(6)}
    decision = ClusteredPolicy(weighting="uniform").decide(
        RoundView(3, 7, SIZES, before), PolicyMemory()
    )
    assert decision.clusters == before
    assert decision.weights == pytest.approx(dict.fromkeys(range(6), 1 / 3))
    assert decision.embedding_2d == {}


def test_only_a_rule_without_features_parts_clients_before_the_first_round():
    assert ClusteredPolicy().first_clusters(range(3), 0) is None
    assert ClusteredPolicy(rule=EachAlone(), warmup_rounds=1).first_clusters(range(3), 0) is None
    assert ClusteredPolicy(rule=EachAlone()).first_clusters([4, 5, 6], 0) == {4: 0, 5: 1, 6: 2}


def test_clients_that_never_met_are_compared_by_what_is_remembered():
    rounds = [observe(pair, seed=pair[0]) for pair in ([0, 1], [3, 4], [2, 5])]
    first, second, third = go_through(ClusteredPolicy(), rounds)
    assert first.unplaced == {2, 3, 4, 5} and first.clusters[0] == first.clusters[1]
    assert set(first.placed_clusters.values()) == {0}
    assert second.unplaced == {2, 5}
    assert second.clusters[0] == second.clusters[1] != second.clusters[3] == second.clusters[4]
    assert not third.unplaced
    assert adjusted_rand_score([DOMAIN[c] for c in range(6)], list(third.clusters.values())) == 1
    # Labels stay with their clients; who is away counts nothing.
    assert all(third.clusters[c] == second.clusters[c] for c in (0, 1, 3, 4))
    assert [third.weights[c] for c in range(6)] == [0, 0, 1, 0, 0, 1]


def test_observations_of_other_blocks_are_not_compared():
    """Blocks moved far between two rounds: without the frame, who came when would tell."""
    late = observe([1, 4], seed=1, frame=None)
    late.means[:, 1] += 50.0
    early, moved = go_through(ClusteredPolicy(), [observe([0, 3], frame=None), late])
    assert early.clusters[0] != early.clusters[3]
    assert moved.memory.known is None
    assert moved.divergences.keys() == {1, 4}
    assert {moved.clusters[0], moved.clusters[3]} == {0, 1}


@pytest.mark.parametrize("rule", [None, KMeansClusters()])
def test_a_loud_client_is_set_apart_and_forgiven_when_it_is_quiet_again(rule):
    rounds = [observe(range(6)), observe(range(6), 10.0, 1, "blocks", [1]), observe([1, 3], seed=2)]
    before, during, after = go_through(ClusteredPolicy(rule=rule), rounds)
    assert not before.loud and during.loud == {1} and not after.loud
    assert during.clusters[1] not in {during.clusters[c] for c in (0, 2, 3, 4, 5)}
    assert during.clusters[0] == during.clusters[2] != during.clusters[3] == during.clusters[5]
    assert during.weights[1] == 1.0 and 1 in during.divergences
    assert during.figures()["num_loud"] == 1
    assert after.clusters[1] == after.clusters[0]


def test_a_client_that_left_is_forgotten():
    policy = ClusteredPolicy(forget_after_rounds=2)
    *_, last = go_through(policy, [observe(range(6)), observe([0, 3]), observe([0, 3])])
    assert last.memory.known.client_ids == [0, 3]
    assert last.unplaced == {1, 2, 4, 5}
    # One that is no client any more is forgotten at once.
    fewer = {c: SIZES[c] for c in (0, 3, 4)}
    view = RoundView(3, 7, fewer, dict.fromkeys(fewer, 0), observe([0]))
    assert policy.decide(view, last.memory).memory.known.client_ids == [0, 3]


def test_warm_up_does_not_bind_those_who_were_averaged_in_it():
    policy = ClusteredPolicy(warmup_rounds=1)
    warm, found = go_through(policy, [observe(range(6), gap=2.0), observe(range(6), gap=2.0)])
    assert set(warm.clusters.values()) == {0} and not warm.unplaced
    assert len(set(found.clusters.values())) == 2


def test_options_are_refused_by_name():
    for name in ("stability", "warmup_rounds", "recluster_every_n_rounds", "forget_after_rounds"):
        with pytest.raises(HuscfError, match=f"federation.{name} is -1"):
            ClusteredPolicy(**{name: -1})
    with pytest.raises(HuscfError, match=r"federation\.rule is called with features, seed"):
        ClusteredPolicy(rule=lambda features: features)
