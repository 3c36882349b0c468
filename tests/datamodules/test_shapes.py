import pytest
import torch

from huscf.datamodules import Augmentation, Domain, fit_samples
from huscf.datamodules.shapes import conform_domains
from huscf.errors import DataError, HuscfError


def make_domain(name, channels, size):
    samples = torch.randint(0, 256, (6, channels, size, size), dtype=torch.uint8)
    labels = torch.arange(6) % 3
    return Domain(name, samples, labels, samples, labels)


def test_padding_keeps_the_picture_and_repeats_its_edge():
    samples = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    padded = fit_samples(samples, 32, 1)
    assert torch.equal(padded[:, :, 2:30, 2:30], samples)
    assert torch.equal(padded[:, :, 0, 2:30], samples[:, :, 0])


def test_other_sizes_are_resized_with_the_mean_kept():
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(2, 1, 64, 64)
    small = fit_samples(ramp, 16, 1)
    assert small.shape == (2, 1, 16, 16) and small.dtype == torch.uint8
    assert abs(small.float().mean() - ramp.float().mean()) < 1


def test_grey_becomes_colour_and_colour_grey():
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    colour = fit_samples(grey, 8, 3)
    assert torch.equal(colour[:, 0], colour[:, 2])
    assert torch.equal(fit_samples(colour, 8, 1), grey)
    with pytest.raises(DataError, match="no rule from 4 to 3"):
        fit_samples(grey.expand(-1, 4, -1, -1), 8, 3)


def test_nothing_to_do_copies_nothing():
    samples = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert fit_samples(samples, 8, 1) is samples


@pytest.mark.parametrize(
    ("image_size", "channels", "expected"),
    [(None, None, (3, 32, 32)), (28, 1, (1, 28, 28)), (64, None, (3, 64, 64))],
)
def test_domains_meet_at_the_largest_or_the_wanted_shape(image_size, channels, expected):
    domains = [make_domain("grey", 1, 28), make_domain("colour", 3, 32)]
    for domain in conform_domains(domains, image_size, channels):
        assert domain.train_samples.shape == (6, *expected) == domain.test_samples.shape


def test_flip_mirrors_some_samples_and_leaves_the_others():
    samples = torch.arange(64 * 16).view(64, 1, 4, 4)
    changed = Augmentation(horizontal_flip=True)(samples, torch.Generator().manual_seed(0))
    same = (changed == samples).flatten(1).all(1)
    mirrored = (changed == samples.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all() and 10 < same.sum() < 54


def test_shift_moves_and_repeats_the_edge():
    samples = torch.arange(8).view(1, 1, 1, 8).expand(100, 2, 8, 8).contiguous()
    changed = Augmentation(shift_px=2)(samples, torch.Generator().manual_seed(0))
    moves = {tuple(row.tolist()) for row in changed[:, 0, 0]}
    expected = {tuple(min(max(c + move, 0), 7) for c in range(8)) for move in range(-2, 3)}
    assert changed.shape == samples.shape and moves == expected
    with pytest.raises(HuscfError):
        Augmentation(shift_px=-1)
