"""Inversion against heads whose inverse is known."""

import math

import pytest
import torch
from torch import nn

from huscf.privacy.inversion import (
    invert_head,
    measure_reconstruction,
    mixing_labels,
    reads_labels,
    train_decoder,
)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(count=6, seed=1):
    return torch.rand(count, 1, 8, 8, generator=stream(seed)) * 2 - 1


def test_an_identity_head_is_inverted_exactly():
    samples = draw()
    found = invert_head(
        lambda x, mixture: {"x": x}, {"x": samples}, samples.shape, 3, 400, stream()
    )
    assert (found.samples - samples).abs().max() < 1e-3


def test_a_head_that_joins_a_plane_for_the_label_gives_samples_and_labels():
    samples, labels = draw(), torch.tensor([0, 1, 2, 2, 1, 0])
    planes = torch.randn(3, 64, generator=stream(2))

    def run_head(x, mixture):
        return {"x": torch.cat([x, (mixture @ planes).view(-1, 1, 8, 8)], 1)}

    sent = run_head(samples, nn.functional.one_hot(labels, 3).float())
    found = invert_head(run_head, sent, samples.shape, 3, 400, stream())
    assert torch.equal(found.labels, labels)
    assert (found.samples - samples).abs().max() < 1e-3


def test_what_a_head_throws_away_is_not_found():
    samples = draw()

    def run_head(x, mixture):
        return {"x": x.mean((2, 3), keepdim=True)}

    found = invert_head(run_head, run_head(samples, None), samples.shape, 3, 400, stream())
    means = [each.mean((1, 2, 3)) for each in (found.samples, samples)]
    assert torch.allclose(*means, atol=1e-3)
    # An even guess between -1 and 1 is off by 1/3 on average; noise of the start adds its own.
    assert (found.samples - samples).square().mean() == pytest.approx(1 / 3, abs=0.06)


def test_a_mixture_of_labels_weighs_an_embedding_s_rows():
    head, labels = nn.Sequential(nn.Embedding(4, 5)), torch.tensor([2, 0])
    plain = head(labels)
    with mixing_labels(head, nn.functional.one_hot(labels, 3).float()):
        assert torch.equal(head(torch.zeros(2, dtype=torch.int64)), plain)
    with mixing_labels(head, torch.tensor([[0.25, 0.0, 0.75]] * 2)):
        mixed = head(labels)
    rows = head[0].weight
    assert torch.allclose(mixed[0], 0.25 * rows[0] + 0.75 * rows[2])
    assert torch.equal(head(labels), plain)
    assert reads_labels(head) and not reads_labels(nn.Linear(2, 2))


@pytest.mark.parametrize("flat", [False, True])
def test_a_decoder_learns_the_inverse_of_a_head_that_keeps_everything(flat):
    samples, unseen = draw(512), draw(64, seed=3)

    def run_head(x):
        made = torch.cat([x, -x], 1) * 50  # whatever the size of activations
        return made.flatten(1) if flat else made

    decoder = train_decoder(run_head(samples), samples, 120, stream())
    with torch.no_grad():
        error = (decoder(run_head(unseen)) - unseen).square().mean()
    assert error < (0.15 if flat else 0.02) < unseen.square().mean()


def test_reconstructions_are_measured_on_pixels_between_0_and_1():
    samples = draw() * 0.8
    exact = measure_reconstruction(samples, samples)
    assert exact["mse"] == 0 and exact["psnr_db"] == 100 and exact["ssim"] == pytest.approx(1)
    brighter = measure_reconstruction(samples + 0.2, samples)
    assert brighter["mse"] == pytest.approx(0.01, rel=1e-4)
    assert brighter["psnr_db"] == pytest.approx(10 * math.log10(1 / 0.01), rel=1e-4)
    assert 0.5 < brighter["ssim"] < 1
    others = measure_reconstruction(draw(seed=5), samples)
    assert abs(others["ssim"]) < 0.15 and others["mse"] > 0.05


def test_pictures_of_28_pixels_have_the_usual_window():
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    one, other = (torch.rand(3, 1, 28, 28, generator=stream(seed)) for seed in (0, 1))
    wanted = StructuralSimilarityIndexMeasure(data_range=1.0)(one, other)
    found = measure_reconstruction(one * 2 - 1, other * 2 - 1)
    assert found["ssim"] == pytest.approx(wanted.item(), abs=1e-5)
