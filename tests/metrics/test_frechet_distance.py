import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from huscf.errors import HuscfError
from huscf.metrics import FrechetDistance, Moments, measure_frechet_distance


def make_features(count, width, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing + shift


def stream(real, synthetic):
    metric = FrechetDistance(real.shape[1])
    for features, is_real in ((real, True), (synthetic, False)):
        for batch in features.split(33):
            metric.update(batch, real=is_real)
    return metric.compute().item()


def moments(features):
    return Moments(features.double().mean(0), features.double().T.cov())


@pytest.mark.parametrize("counts", [(500, 300), (20, 10)], ids=["full rank", "singular"])
def test_equals_scipy_sqrtm(counts):
    real, synthetic = make_features(counts[0], 16, 0), make_features(counts[1], 16, 1, shift=0.5)
    one, other = moments(real), moments(synthetic)
    root = torch.as_tensor(sqrtm((one.covariance @ other.covariance).numpy())).real
    expected = (one.mean - other.mean).square().sum() + torch.trace(
        one.covariance + other.covariance - 2 * root
    )
    assert stream(real, synthetic) == pytest.approx(expected.item(), rel=1e-5)


def test_equals_torchmetrics_with_the_same_features():
    real, synthetic = make_features(200, 8, 0), make_features(300, 8, 1)
    reference = FrechetInceptionDistance(feature=FlatFeatures(), normalize=True)
    reference.set_dtype(torch.float64)
    reference.update(real, real=True)
    reference.update(synthetic, real=False)
    assert stream(real, synthetic) == pytest.approx(reference.compute().item(), rel=1e-4)


class FlatFeatures(nn.Module):
    num_features = 8

    def forward(self, samples):
        return samples


def test_shift_of_the_mean_adds_its_square():
    features = make_features(100, 5, 0)
    assert stream(features, features) == pytest.approx(0, abs=1e-6)
    assert stream(features, features + 2) == pytest.approx(5 * 2**2, rel=1e-5)


def test_closed_form_of_diagonal_gaussians():
    one = Moments(torch.zeros(2).double(), torch.diag(torch.tensor([4.0, 9.0])).double())
    other = Moments(torch.ones(2).double(), torch.eye(2).double())
    # |m|^2 + (2 - 1)^2 + (3 - 1)^2
    assert measure_frechet_distance(one, other).item() == pytest.approx(2 + 1 + 4)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_reset_forgets():
    metric = FrechetDistance(5)
    metric.update(make_features(10, 5, 0), real=True)
    metric.update(make_features(10, 5, 0), real=False)
    metric.reset()
    with pytest.raises(HuscfError, match="needs two real samples, got 0"):
        metric.compute()
