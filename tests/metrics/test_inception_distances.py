import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from huscf.errors import HuscfError
from huscf.metrics import (
    InceptionFeatures,
    load_inception,
    measure_inception_distances,
    measure_kernel_distance,
)


class Projection(nn.Module):
    """Stands where Inception stands: uint8 colour pictures in, features out."""

    num_features = 6

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weights", torch.randn(3 * 4 * 4, 6, generator=generator))

    def forward(self, pictures):
        assert pictures.dtype == torch.uint8
        assert pictures.shape[1] == 3
        return (pictures.flatten(1).float() / 255) @ self.weights


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(256, (60, 3, 4, 4), generator=generator).byte()
    return real, (real[:40].float() / 127.5 - 1) * 0.5


def test_equals_torchmetrics_and_the_exact_kernel_distance(pictures):
    real, synthetic = pictures
    extractor = Projection()
    found = measure_inception_distances(extractor, real, synthetic, batch_size=7)
    quantized = ((synthetic + 1) * 127.5).round().byte()
    reference = FrechetInceptionDistance(feature=extractor)
    reference.update(real, real=True)
    reference.update(quantized, real=False)
    assert found["fid"] == pytest.approx(reference.compute().item(), rel=1e-3)
    kid = measure_kernel_distance(extractor(real), extractor(quantized))
    assert found["kid"] == pytest.approx(kid.item(), rel=1e-5)
    assert found["fid"] > 0.1


def test_grey_pictures_are_shown_as_colour_ones(pictures):
    real, _ = pictures
    grey = real[:, :1]
    same = measure_inception_distances(Projection(), grey, grey.expand(-1, 3, -1, -1))
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(HuscfError, match="sees 1 or 3 channels, samples have 2"):
        measure_inception_distances(Projection(), real[:, :2], real[:, :2])


def test_no_samples_is_one_clear_line(pictures):
    real, synthetic = pictures
    with pytest.raises(HuscfError, match="at least one sample"):
        measure_inception_distances(Projection(), real, synthetic[:0])


def test_without_torch_fidelity_nothing_is_substituted(monkeypatch, tmp_path):
    monkeypatch.setattr("huscf.metrics.inception_distances._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(HuscfError, match="pip install torch-fidelity"):
        load_inception(tmp_path / "weights.pth", antialias=True)


def test_weights_are_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr("huscf.metrics.inception_distances._TORCH_FIDELITY_AVAILABLE", True)
    with pytest.raises(HuscfError, match=r"no Inception weights at .*nothing is downloaded"):
        load_inception(tmp_path / "weights.pth", antialias=True)


def test_too_few_samples_are_refused_before_anything_is_loaded():
    with pytest.raises(HuscfError, match="max_samples is 1, must be >= 2"):
        _ = InceptionFeatures("weights.pth", max_samples=1).extractor
