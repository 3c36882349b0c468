import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from huscf.errors import HuscfError
from huscf.federation import (
    EachAlone,
    KMeansClusters,
    OneCluster,
    make_features,
    match_labels,
    scale_features,
)


def groups(count, members, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 500)) * 3
    truth = np.repeat(np.arange(count), members)
    return centres[truth] + rng.normal(size=(len(truth), 500)) * spread, truth


@pytest.mark.parametrize("count", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_the_number_of_clusters_is_found(count, seed):
    features, truth = groups(count, 4, seed=seed)
    found = KMeansClusters().assign(scale_features(features), seed)
    assert adjusted_rand_score(truth, found) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_one_cluster(seed):
    features, _ = groups(1, 8, seed=seed)
    assert len(set(KMeansClusters().assign(scale_features(features), seed))) == 1


def test_a_singleton_is_legal():
    features, truth = groups(2, 5)
    keep = [0, 1, 2, 3, 4, 5]
    found = KMeansClusters().assign(scale_features(features[keep]), 0)
    assert adjusted_rand_score(truth[keep], found) == 1.0


def test_fixed_number_one_cluster_and_each_alone():
    features, _ = groups(2, 3)
    assert len(set(KMeansClusters(num_clusters=3).assign(features, 0))) == 3
    assert len(set(KMeansClusters(num_clusters=99).assign(features, 0))) == 6
    assert OneCluster().assign(features, 0).tolist() == [0] * 6
    assert EachAlone().assign(features, 0).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(HuscfError, match="num_clusters is 0"):
        KMeansClusters(num_clusters=0)


def test_scaling_keeps_distances_up_to_one_factor():
    features, _ = groups(2, 4)
    scaled = scale_features(features)
    ratio = np.linalg.norm(features[0] - features[5]) / np.linalg.norm(scaled[0] - scaled[5])
    other = np.linalg.norm(features[2] - features[3]) / np.linalg.norm(scaled[2] - scaled[3])
    assert ratio == pytest.approx(other)
    assert (scaled**2).sum(1).mean() == pytest.approx(1.0)
    assert scale_features(np.ones((3, 5))).tolist() == np.zeros((3, 2)).tolist()


def test_labels_are_kept_from_round_to_round():
    previous = {0: 0, 1: 0, 2: 1, 3: 1}
    assert match_labels({0: 1, 1: 1, 2: 0, 3: 0}, previous) == previous
    assert match_labels({0: 2, 1: 2, 2: 0, 3: 0, 4: 1}, previous) == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2}
    assert match_labels({0: 0, 1: 0, 2: 0, 3: 0}, {0: 0, 1: 1, 2: 1, 3: 1}) == dict.fromkeys(
        range(4), 0
    )
    assert match_labels({5: 3, 6: 1}, {}) in ({5: 0, 6: 1}, {5: 1, 6: 0})


def test_features_weigh_maps_and_channel_means_equally():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(5, 3, 4))
    expected = np.hstack([scale_features(maps.reshape(5, 12)), scale_features(maps.mean(2))])
    distances = np.linalg.norm(expected[:, None] - expected[None], axis=2)
    features = make_features(maps)
    got = np.linalg.norm(features[:, None] - features[None], axis=2)
    off = ~np.eye(5, dtype=bool)
    ratio = got[off] / distances[off]
    assert ratio == pytest.approx(np.full(20, ratio[0]))
    assert make_features(maps[:, :, 0]).shape == (5, 3)


def test_a_shift_of_positions_alone_does_not_hide_the_groups_of_channels():
    """Clients of a group have channels in common; where they are active is each one's own."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 4)
    maps = np.zeros((8, 16, 9))
    for client, group in enumerate(truth):
        channels = range(8) if group else range(8, 16)
        maps[client, channels] = 9 * rng.dirichlet(np.full(9, 2.0), size=8)
    found = KMeansClusters().assign(make_features(maps), 0)
    assert adjusted_rand_score(truth, found) == 1.0
