"""The distance to held-out samples: by hand, and what makes it grow."""

import math

import pytest
import torch

from huscf.metrics import held_out_distance


def plain(*values):
    """Samples of one grey each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


def test_it_equals_the_energy_distance_worked_by_hand():
    real, fake = plain(0.0, 0.4), plain(0.1, 0.5)
    # Across 0.1, 0.5, 0.3, 0.1: mean 0.25; within 0.4 each.
    labels = torch.zeros(2, dtype=torch.int64)
    assert held_out_distance(real, labels, fake, labels) == pytest.approx(2 * 0.25 - 0.4 - 0.4)


def test_classes_are_compared_apart_and_weigh_by_their_held_out_samples():
    real, fake = plain(0.0, 0.4, 0.0, 0.4, 0.4, 0.0), plain(0.1, 0.5, 1.0, 1.0)
    real_labels, fake_labels = torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    first = 2 * 0.25 - 0.4 - 0.4
    second = 2 * 0.8 - 4 / 6 * 0.4
    expected = (2 * first + 4 * second) / 6
    assert held_out_distance(real, real_labels, fake, fake_labels) == pytest.approx(expected)


def test_it_is_about_zero_for_one_distribution_and_grows_with_every_fault():
    stream = torch.Generator().manual_seed(0)
    samples = torch.rand(300, 1, 28, 28, generator=stream) ** 4
    samples[150:] = samples[150:].flip(0) * torch.linspace(0, 1, 28)
    labels = torch.arange(2).repeat_interleave(150)
    held, drawn = torch.arange(0, 300, 3), torch.arange(1, 300, 3)

    def distance(fakes, of=labels[drawn]):
        return held_out_distance(samples[held], labels[held], fakes, of)

    good = distance(samples[drawn])
    assert abs(good) < 0.005
    assert distance(samples[drawn], 1 - labels[drawn]) > good + 0.02  # wrong classes
    assert distance(samples[drawn][[0] * 50 + [60] * 50]) > good + 0.02  # one sample of each
    assert distance(samples[drawn] * 0.5) > good + 0.02


def test_classes_of_single_samples_say_nothing():
    one = torch.zeros(1, 1, 4, 4)
    assert math.isnan(held_out_distance(one, torch.tensor([0]), one, torch.tensor([0])))
