import pytest
import torch

from huscf.errors import HuscfError
from huscf.metrics import SpectralDistance


def measure(synthetic, synthetic_labels, real, real_labels, **kwargs):
    metric = SpectralDistance(num_classes=3, num_bands=real.shape[2], **kwargs)
    for samples, labels in zip(real.split(5), real_labels.split(5), strict=True):
        metric.update(samples, labels, real=True)
    metric.update(synthetic, synthetic_labels, real=False)
    return metric.compute().item()


@pytest.fixture
def sounds():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 1, 6, 9, generator=generator) - 0.5, torch.arange(12) % 3


def test_same_sounds_in_any_order_are_at_zero(sounds):
    samples, labels = sounds
    order = torch.arange(12).flip(0)
    assert measure(samples[order], labels[order], samples, labels) == pytest.approx(0, abs=1e-9)


def test_a_louder_sound_is_as_far_as_it_is_louder(sounds):
    samples, labels = sounds
    # 0.25 of the step of 2 that stands for 60 dB.
    distance = measure(samples + 0.25, labels, samples, labels, range_db=60.0)
    assert distance == pytest.approx(60 * 0.25 / 2, rel=1e-5)


def test_sounds_of_the_wrong_class_are_apart(sounds):
    samples, labels = sounds
    tilted = samples + labels.view(-1, 1, 1, 1) * torch.linspace(-0.2, 0.2, 6).view(1, 1, 6, 1)
    right, wrong = (measure(tilted, (labels + turn) % 3, tilted, labels) for turn in (0, 1))
    assert right == pytest.approx(0, abs=1e-6)
    assert wrong > 3


def test_classes_without_partner_are_left_out(sounds):
    samples, labels = sounds
    some = labels == 1
    assert measure(samples[some], labels[some], samples, labels) == pytest.approx(0, abs=1e-9)
    with pytest.raises(HuscfError, match="no class has both"):
        measure(samples[some], labels[some], samples[~some], labels[~some])
