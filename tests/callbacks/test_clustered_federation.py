import math
from types import SimpleNamespace

import pytest
import torch

from huscf.callbacks import ClusteredFederation
from huscf.errors import HuscfError
from huscf.federation import EachAlone, KMeansClusters, OneCluster, PolicyMemory
from huscf.wire import TrafficKey
from tests.conftest import make_batch, make_gan, run_step

CUTS = {c: [1, 1, 1, 1] for c in range(6)}


def observe(module, offset=0.0, only=range(6)):
    """Two groups of clients with different activations at the observed boundary."""
    stream = torch.Generator().manual_seed(1)
    for client in only:
        sign = 1.0 if client < 3 else -1.0
        noise = torch.randn(32, 1, 8, 2, 2, generator=stream)
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
    decision = ClusteredFederation(weighting="samples").decide(module)
    clusters = decision.clusters
    assert len({clusters[c] for c in (0, 1, 2)}) == 1
    assert len({clusters[c] for c in (3, 4, 5)}) == 1
    assert clusters[0] != clusters[3]
    assert decision.weights == pytest.approx(
        {0: 10 / 60, 1: 20 / 60, 2: 30 / 60, 3: 40 / 150, 4: 50 / 150, 5: 60 / 150}
    )


def test_warm_up_averages_everybody():
    module = make_gan(CUTS)
    observe(module)
    federation = ClusteredFederation(warmup_rounds=1)
    assert set(federation.decide(module).clusters.values()) == {0}
    module.num_rounds = 1
    assert set(federation.decide(module).clusters.values()) == {0, 1}


def test_rules_for_one_cluster_and_for_each_alone():
    module = make_gan(CUTS)
    observe(module)
    assert set(ClusteredFederation(rule=OneCluster()).decide(module).clusters.values()) == {0}
    alone = ClusteredFederation(rule=EachAlone()).decide(module)
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
    assert len(set(module.server.trained.route.values())) == num_copies
    assert module.num_rounds == 0


def test_a_function_is_a_rule_and_a_wrong_one_is_told_so():
    module = make_gan(CUTS)
    observe(module)
    by_sign = ClusteredFederation(rule=lambda features, seed: (features[:, 0] > 0) * 7)
    assert len(set(by_sign.decide(module).clusters.values())) == 2
    with pytest.raises(HuscfError, match="must return 6 integer labels"):
        ClusteredFederation(rule=lambda features, seed: features).decide(module)


def test_between_clusterings_only_a_new_client_is_placed():
    module = make_gan(CUTS)
    asked = []

    def rule(features, seed):
        asked.append(len(features))
        return KMeansClusters()(features, seed)

    federation = ClusteredFederation(rule=rule, recluster_every_n_rounds=3)
    observe(module, only=[0, 1, 3, 4, 5])
    federation.apply(module, federation.decide(module))
    observe(module)
    resumed = ClusteredFederation(rule=rule, recluster_every_n_rounds=3)
    resumed.load_state_dict(federation.state_dict())
    clusters = resumed.decide(module).clusters
    assert asked == [5]
    assert clusters == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1} or clusters == {
        c: 1 - (c > 2) for c in range(6)
    }
    module.num_rounds = 3
    resumed.decide(module)
    assert asked == [5, 6]


def test_clients_that_return_go_back_to_their_own_cluster():
    module = make_gan(CUTS)
    federation = ClusteredFederation(recluster_every_n_rounds=9)
    observe(module)
    decision = federation.decide(module)
    clusters = decision.clusters
    assert len(set(clusters.values())) == 2
    # All of the second cluster are absent for a round, and nobody is near them when they return.
    for present in (range(3), range(6)):
        federation.apply(module, decision)
        observe(module, only=present)
        resumed = ClusteredFederation(recluster_every_n_rounds=9)
        resumed.load_state_dict(federation.state_dict())
        federation, decision = resumed, resumed.decide(module)
        assert decision.clusters == clusters


def test_clusters_of_alike_quality_do_not_change():
    module = make_gan(CUTS)
    observe(module)
    module.server.clusters = {0: 1, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    memory = PolicyMemory(placed=frozenset(CUTS), compared=frozenset(CUTS))
    stable = ClusteredFederation(rule=KMeansClusters(), stability=2.0)
    stable.memory = memory
    assert stable.decide(module).clusters == module.clusters
    ready = ClusteredFederation(rule=KMeansClusters())
    ready.memory = memory
    assert ready.decide(module).clusters == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}


@pytest.mark.parametrize("divergence", ["gaussian", "positions"])
def test_a_client_unlike_its_fellows_counts_less(divergence):
    module = make_gan(CUTS)
    observe(module)
    stream = torch.Generator().manual_seed(2)
    odd = torch.randn(32, 1, 8, 2, 2, generator=stream) + torch.tensor([4.5, 3.0]).view(2, 1)
    module.server.statistics = type(module.server.statistics)(2)
    observe(module, only=range(1, 6))
    module.server.statistics.update([0], odd)
    module.server.statistics.fold()
    decision = ClusteredFederation(rule=KMeansClusters(), divergence=divergence, beta=1.0).decide(
        module
    )
    weights, divergences = decision.weights, decision.divergences
    assert decision.clusters[0] == decision.clusters[1]
    assert divergences[0] > max(divergences[1], divergences[2]) > 0
    assert weights[0] < min(weights[1], weights[2])
    ratio = weights[0] / weights[1]
    assert ratio == pytest.approx(math.exp(divergences[1] - divergences[0]))


def test_a_client_that_sent_nothing_keeps_its_cluster_and_counts_nothing():
    module = make_gan(CUTS)
    module.server.clusters = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    observe(module, only=[0, 1, 3, 4, 5])
    federation = ClusteredFederation()
    federation.memory = PolicyMemory(frozenset(CUTS), frozenset(CUTS), dict.fromkeys(CUTS, 0))
    decision = federation.decide(module)
    assert decision.clusters == module.clusters
    assert 2 not in decision.divergences
    assert decision.weights == pytest.approx(
        {0: 1 / 2, 1: 1 / 2, 2: 0.0, 3: 1 / 3, 4: 1 / 3, 5: 1 / 3}
    )


def test_a_client_whose_activations_overflow_hides_nobody_and_is_named():
    module = make_gan(CUTS)
    observe(module)
    module.server.statistics.update([5], torch.full((32, 1, 8, 2, 2), 1e30))
    decision = ClusteredFederation().decide(module)
    assert decision.loud == {5}
    assert decision.clusters[0] == decision.clusters[1] == decision.clusters[2]
    assert decision.clusters[3] == decision.clusters[4]
    assert len({decision.clusters[c] for c in (0, 3, 5)}) == 3
    assert decision.weights[5] == 1.0
    assert decision.divergences.keys() == {0, 1, 2, 3, 4}


def test_no_common_boundary_is_an_error_that_says_what_to_change():
    module = make_gan({0: [1, 1, 3, 1], 1: [1, 1, 1, 3]}, depth=5)
    with pytest.raises(HuscfError, match="shorten the longest discriminator heads or tails"):
        ClusteredFederation(observe="training").begin(module)
    ClusteredFederation().begin(module)
    ClusteredFederation(rule=OneCluster()).begin(module)
    assert ClusteredFederation(rule=OneCluster()).decide(module).weights == {0: 0.5, 1: 0.5}


def test_server_blocks_that_no_cut_leaves_there_are_refused():
    module = make_gan(CUTS, depth=5)
    for blocks in ({"discriminator": [9]}, {"generator": [0]}, {"discriminator": [-2]}):
        with pytest.raises(HuscfError, match="1 to 3 can be at the server"):
            ClusteredFederation(server=blocks).begin(module)
    ClusteredFederation(server={"discriminator": [3]}).begin(module)
    with pytest.raises(HuscfError, match="no network 'critic'; there are generator, discr"):
        ClusteredFederation(server={"critic": [2]}).begin(module)


def two_domains(client_ids, seed):
    """Batches of dark and of light pictures, in halves of the clients."""
    batch = make_batch(client_ids, seed, size=40)
    return {
        client: (samples // 3 if client < 3 else 255 - samples // 3, labels)
        for client, (samples, labels) in batch.items()
    }


def test_what_is_observed_depends_on_the_samples_alone():
    """Not on the moment, on training, on cuts, or on who else takes part."""
    batch = two_domains(CUTS, seed=0)
    short = make_gan(CUTS)
    first = ClusteredFederation()
    first.begin(short)
    first.observe_batch(short, batch)
    cuts = {c: [1, 1, 2, 1] if c % 2 else [2, 1, 1, 1] for c in CUTS}
    trained = make_gan(cuts)
    later = ClusteredFederation()
    later.begin(trained)
    for step in range(3):
        run_step(trained, two_domains([0, 3, 5], step), step)
    for client in reversed(CUTS):
        later.observe_batch(trained, {client: batch[client]})
    one, other = (f.observer.statistics.summarize() for f in (first, later))
    assert one.client_ids == other.client_ids == list(CUTS)
    assert one.means == pytest.approx(other.means, abs=1e-6)
    assert one.covariances == pytest.approx(other.covariances, abs=1e-6)
    # The blocks in training are not observed as well.
    assert trained.server.statistics.client_ids == []


def test_enough_samples_are_observed_and_no_more_and_their_traffic_counts():
    module = make_gan(CUTS)
    federation = ClusteredFederation(observed_samples=64)
    federation.begin(module)
    for step in range(4):
        federation.observe_batch(module, two_domains([2], step))
    assert federation.observer.statistics.num_samples(2) == 80
    key = TrafficKey(2, "activations", "discriminator_head", "uplink")
    sent = module.wire.traffic.num_bytes[key]
    assert sent == 80 * 4 * 4 * 4 * 4  # samples of 4 channels, 4 x 4, four bytes each
    federation.apply(module, federation.decide(module))
    assert federation.observer.statistics.num_samples(2) == 0


def test_clients_that_take_turns_are_told_apart_by_their_data_alone():
    module = make_gan(CUTS)
    federation = ClusteredFederation()
    federation.begin(module)
    for number, present in enumerate(([0, 4], [1, 3], [2, 0])):
        for step in range(2):
            batch = two_domains(present, 10 * number + step)
            federation.observe_batch(module, batch)
            run_step(module, batch, 2 * number + step)
        # Everything goes through a checkpoint after every round.
        decision = federation.decide(module)
        federation.apply(module, decision)
        resumed = ClusteredFederation()
        resumed.load_state_dict(federation.state_dict())
        resumed.begin(module)
        federation = resumed
        if number == 0:
            assert decision.unplaced == {1, 2, 3, 5}
            # Those who were never seen share the last cluster, and nobody's average.
            assert {decision.clusters[c] for c in (1, 2, 3, 5)} == {2}
    assert decision.unplaced == {5}
    clusters = decision.clusters
    assert clusters[0] == clusters[1] == clusters[2] != clusters[3] == clusters[4]
    assert clusters[5] not in (clusters[0], clusters[3])
    # Who is away keeps cluster and position, and counts nothing.
    assert decision.embedding_2d.keys() == {0, 1, 2, 3, 4}
    assert decision.weights[1] == 0.0
    assert decision.figures()["num_clusters"] == 2
    assert decision.figures()["num_placed"] == 5


def test_a_loud_client_is_named_once():
    module = make_gan(CUTS)
    federation = ClusteredFederation(observe="training")
    module.log = lambda *args, **kwargs: None
    trainer = SimpleNamespace(
        current_epoch=0,
        datamodule=None,
        max_epochs=9,
        max_steps=-1,
        min_epochs=None,
        min_steps=None,
        should_stop=False,
        global_step=1,
        callbacks=[federation],
    )
    for number in range(2):
        observe(module)
        module.server.statistics.update([4], torch.full((32, 1, 8, 2, 2), 7e8))
        if number == 0:
            with pytest.warns(UserWarning, match=r"clients \[4\] send activations that no sample"):
                federation.on_train_epoch_end(trainer, module)
        else:
            federation.on_train_epoch_end(trainer, module)  # warnings are errors here
        assert federation.decision.loud == {4}
