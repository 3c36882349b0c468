"""Our functional cores and the Inception network against torch-fidelity's own."""

import os

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from huscf.errors import HuscfError
from huscf.metrics import (
    InceptionFeatures,
    LabelledSamples,
    load_inception,
    measure_generation_score,
    measure_kernel_distance,
    measure_neighbour_scores,
)
from huscf.metrics.frechet_distance import compare_features
from tests.metrics.inception_file import write_inception


def make_features(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=generator) + shift


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained Inception network in the file layout of the trained one."""
    return write_inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(256, (6, 3, 28, 28), generator=generator).byte()
    return real, torch.randint(180, (5, 3, 28, 28), generator=generator).byte()


def test_frechet_distance():
    real, synthetic = make_features(300, 0), make_features(200, 1, shift=0.4)
    statistics = [fid_features_to_statistics(each.double()) for each in (real, synthetic)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)
    found = compare_features(real, synthetic)
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-5)
    assert found > 1


def test_kernel_distance():
    real, synthetic = make_features(80, 0), make_features(80, 1, shift=0.4)
    options = {"kid_subsets": 1, "kid_subset_size": 80, "verbose": False}
    expected = kid_features_to_metric(real.double(), synthetic.double(), **options)
    found = measure_kernel_distance(real, synthetic).item()
    assert found == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-5)
    assert found > 0.1


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall(k):
    real, synthetic = make_features(150, 0), make_features(120, 1, shift=0.5) * 0.7
    options = {"prc_neighborhood": k, "verbose": False}
    expected = prc_features_to_metric(synthetic, real, **options)
    found = measure_neighbour_scores(real, synthetic, k)
    for name in ("precision", "recall"):
        assert found[name].item() == pytest.approx(expected[name], abs=1e-6)
    assert 0 < found["recall"] < found["precision"] < 1


def test_generation_score():
    logits = 3 * make_features(200, 0)
    expected = isc_features_to_metric(logits, splits=1)
    found = measure_generation_score(logits.double().softmax(1))
    assert found == pytest.approx(expected["inception_score_mean"], rel=1e-6)


def test_features_without_antialias_are_torch_fidelitys(weights, pictures):
    own = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))
    inception = InceptionFeatures(str(weights))
    assert inception.antialias is False
    found = inception.extract(LabelledSamples(pictures[0], torch.zeros(6).long(), 1))
    with torch.no_grad():
        (expected,) = own(pictures[0])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert found.shape == (6, 2048)
    assert found.std(0).mean() > 0.01


def test_antialias_is_torchmetrics_way_and_makes_a_difference(weights, pictures):
    # Large pictures: only in shrinking does the setting matter.
    large = pictures[0].repeat(1, 1, 22, 22)[:2]
    with_it, without = (
        InceptionFeatures(str(weights), antialias).extract(
            LabelledSamples(large, torch.zeros(2).long(), 1)
        )
        for antialias in (True, False)
    )
    reference = FrechetInceptionDistance(
        feature=2048, feature_extractor_weights_path=str(weights), antialias=True
    )
    with torch.no_grad():
        expected = reference.inception(large)
    torch.testing.assert_close(with_it, expected, rtol=1e-3, atol=1e-4)
    assert (with_it - without).abs().mean() > 10 * (with_it - expected).abs().mean()


def test_loaded_weights_are_those_of_the_file(weights):
    network = load_inception(weights, antialias=False)
    saved = torch.load(weights, weights_only=True)
    state = network.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("damage", ["foreign", "truncated", "one tensor missing"])
def test_a_file_that_is_not_inceptions_is_refused(damage, weights, tmp_path):
    path = tmp_path / "weights.pth"
    if damage == "foreign":
        torch.save({"weight": torch.zeros(3)}, path)
    elif damage == "truncated":
        path.write_bytes(weights.read_bytes()[:100_000])
    else:
        state = torch.load(weights, weights_only=True)
        del state["fc.weight"]
        torch.save(state, path)
    with pytest.raises(HuscfError, match=f"{path} does not hold Inception weights"):
        load_inception(path, antialias=False)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    torch.save({"fc.weight": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(HuscfError, match="does not hold Inception weights"):
        load_inception(tmp_path / "weights.pth", antialias=False)
    assert not (tmp_path / "harmed").exists()
