import math

import pytest
import torch

from huscf.callbacks import ClusteredFederation
from huscf.errors import HuscfError
from huscf.federation import EachAlone, KMeansClusters, OneCluster
from tests.conftest import make_gan

CUTS = {c: [1, 1, 1, 1] for c in range(6)}


def observe(module, offset=0.0, only=range(6)):
    """Two groups of clients with different activations at the observed boundary."""
    stream = torch.Generator().manual_seed(1)
    for client in only:
        sign = 1.0 if client < 3 else -1.0
        noise = torch.randn(8, 1, 8, 2, 2, generator=stream)
        module.server.statistics.update([client], noise + 3 * sign + offset)
    module.server.statistics.fold()


def test_rounds_end_every_n_epochs():
    federation = ClusteredFederation(every_n_epochs=3)
    assert [federation.should_federate(e) for e in range(6)] == [False, False, True] * 2
    with pytest.raises(HuscfError, match="every_n_epochs is 0"):
        ClusteredFederation(every_n_epochs=0)
    with pytest.raises(HuscfError, match="half_life is -1"):
        ClusteredFederation(half_life=-1)
    for name in ("stability", "half_life", "beta", "size_exponent"):
        with pytest.raises(HuscfError, match=f"{name} is nan"):
            ClusteredFederation(**{name: math.nan})


def test_two_groups_are_found_and_weighed():
    module = make_gan(CUTS, client_sizes={c: 10 * (c + 1) for c in CUTS})
    observe(module)
    assignment = ClusteredFederation(weighting="samples").assign(module)
    clusters = assignment.clusters
    assert len({clusters[c] for c in (0, 1, 2)}) == 1
    assert len({clusters[c] for c in (3, 4, 5)}) == 1
    assert clusters[0] != clusters[3]
    assert assignment.weights == pytest.approx(
        {0: 10 / 60, 1: 20 / 60, 2: 30 / 60, 3: 40 / 150, 4: 50 / 150, 5: 60 / 150}
    )


def test_warm_up_averages_everybody():
    module = make_gan(CUTS)
    observe(module)
    federation = ClusteredFederation(warmup_rounds=1)
    assert set(federation.assign(module).clusters.values()) == {0}
    module.num_rounds = 1
    assert set(federation.assign(module).clusters.values()) == {0, 1}


def test_rules_for_one_cluster_and_for_each_alone():
    module = make_gan(CUTS)
    observe(module)
    assert set(ClusteredFederation(rule=OneCluster()).assign(module).clusters.values()) == {0}
    alone = ClusteredFederation(rule=EachAlone()).assign(module)
    assert len(set(alone.clusters.values())) == 6
    assert set(alone.weights.values()) == {1.0}


@pytest.mark.parametrize(
    ("options", "num_copies"),
    [
        ({"rule": EachAlone()}, 6),
        ({"rule": EachAlone(), "server": "shared"}, 1),
        ({"rule": EachAlone(), "warmup_rounds": 1}, 1),
        ({"rule": OneCluster()}, 1),
        ({}, 1),
    ],
)
def test_clients_that_are_alone_share_no_server_from_the_first_step_on(options, num_copies):
    module = make_gan(CUTS)
    ClusteredFederation(**options).begin(module)
    assert len(set(module.server.route.values())) == num_copies
    assert module.num_rounds == 0


def test_a_function_is_a_rule_and_a_wrong_one_is_told_so():
    module = make_gan(CUTS)
    observe(module)
    by_sign = ClusteredFederation(rule=lambda features, seed: (features[:, 0] > 0) * 7)
    assert len(set(by_sign.assign(module).clusters.values())) == 2
    with pytest.raises(HuscfError, match="must return 6 integer labels"):
        ClusteredFederation(rule=lambda features, seed: features).assign(module)


def test_between_clusterings_only_a_new_client_is_placed():
    module = make_gan(CUTS)
    asked = []

    def rule(features, seed):
        asked.append(len(features))
        return KMeansClusters()(features, seed)

    federation = ClusteredFederation(rule=rule, recluster_every_n_rounds=3)
    observe(module, only=[0, 1, 3, 4, 5])
    clusters = federation.assign(module).clusters
    module.federate(clusters, dict.fromkeys(clusters, 0.5))
    observe(module)
    resumed = ClusteredFederation(rule=rule, recluster_every_n_rounds=3)
    resumed.load_state_dict(federation.state_dict())
    clusters = resumed.assign(module).clusters
    assert asked == [5]
    assert clusters == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1} or clusters == {
        c: 1 - (c > 2) for c in range(6)
    }
    module.num_rounds = 3
    resumed.assign(module)
    assert asked == [5, 6]


def test_clients_that_return_go_back_to_their_own_cluster():
    module = make_gan(CUTS)
    federation = ClusteredFederation(recluster_every_n_rounds=9)
    observe(module)
    clusters = federation.assign(module).clusters
    assert len(set(clusters.values())) == 2
    # All of the second cluster are absent for a round, and nobody is near them when they return.
    for present in (range(3), range(6)):
        module.federate(clusters, dict.fromkeys(clusters, 1 / 3))
        observe(module, only=present)
        resumed = ClusteredFederation(recluster_every_n_rounds=9)
        resumed.load_state_dict(federation.state_dict())
        federation = resumed
        assert federation.assign(module).clusters == clusters


def test_clusters_of_alike_quality_do_not_change():
    module = make_gan(CUTS)
    observe(module)
    module.parties.clusters = {0: 1, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    stable = ClusteredFederation(stability=2.0)
    stable.load_state_dict({"present": list(CUTS), "placed": list(CUTS)})
    assert stable.assign(module).clusters == module.clusters
    ready = ClusteredFederation()
    ready.load_state_dict({"present": list(CUTS), "placed": list(CUTS)})
    assert ready.assign(module).clusters == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}


@pytest.mark.parametrize("divergence", ["gaussian", "positions"])
def test_a_client_unlike_its_fellows_counts_less(divergence):
    module = make_gan(CUTS)
    observe(module)
    stream = torch.Generator().manual_seed(2)
    odd = torch.randn(8, 1, 8, 2, 2, generator=stream) + torch.tensor([4.5, 3.0]).view(2, 1)
    module.server.statistics = type(module.server.statistics)(2)
    observe(module, only=range(1, 6))
    module.server.statistics.update([0], odd)
    module.server.statistics.fold()
    assignment = ClusteredFederation(divergence=divergence, beta=1.0).assign(module)
    weights, divergences = assignment.weights, assignment.divergences
    assert assignment.clusters[0] == assignment.clusters[1]
    assert divergences[0] > max(divergences[1], divergences[2]) > 0
    assert weights[0] < min(weights[1], weights[2])
    ratio = weights[0] / weights[1]
    assert ratio == pytest.approx(math.exp(divergences[1] - divergences[0]))


def test_a_client_that_sent_nothing_keeps_its_cluster_and_counts_nothing():
    module = make_gan(CUTS)
    module.parties.clusters = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    observe(module, only=[0, 1, 3, 4, 5])
    assignment = ClusteredFederation().assign(module)
    assert assignment.clusters == module.clusters
    assert 2 not in assignment.divergences
    assert assignment.weights == pytest.approx(
        {0: 1 / 2, 1: 1 / 2, 2: 0.0, 3: 1 / 3, 4: 1 / 3, 5: 1 / 3}
    )


def test_activations_whose_squares_overflow_keep_the_clusters():
    module = make_gan(CUTS)
    module.parties.clusters = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    observe(module)
    module.server.statistics.update([5], torch.full((8, 1, 8, 2, 2), 1e30))
    assignment = ClusteredFederation().assign(module)
    assert assignment.clusters == module.clusters
    assert assignment.divergences == {}


def test_no_common_boundary_is_an_error_that_says_what_to_change():
    module = make_gan({0: [1, 1, 3, 1], 1: [1, 1, 1, 3]}, depth=5)
    with pytest.raises(HuscfError, match="shorten the longest discriminator heads or tails"):
        ClusteredFederation().on_fit_start(None, module)
    ClusteredFederation(rule=OneCluster()).on_fit_start(None, module)
    assert ClusteredFederation(rule=OneCluster()).assign(module).weights == {0: 0.5, 1: 0.5}


def test_server_blocks_that_no_cut_leaves_there_are_refused():
    module = make_gan(CUTS, depth=5)
    for blocks in ({"discriminator": [9]}, {"generator": [0]}, {"discriminator": [-2]}):
        with pytest.raises(HuscfError, match="1 to 3 can be at the server"):
            ClusteredFederation(server=blocks).on_fit_start(None, module)
    ClusteredFederation(server={"discriminator": [3]}).on_fit_start(None, module)
    with pytest.raises(HuscfError, match="no network 'critic'; there are generator, discr"):
        ClusteredFederation(server={"critic": [2]}).on_fit_start(None, module)
