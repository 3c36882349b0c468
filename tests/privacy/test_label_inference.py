"""Labels out of features that tell them, and out of such that do not."""

import pytest
import torch

from huscf.privacy.label_inference import guess_commonest, infer_labels, measure_accuracy


def test_labels_are_found_where_features_tell_them_and_only_there():
    stream = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (600,), generator=stream)
    features = torch.randn(600, 2, 3, 3, generator=stream) * 1e-6
    blind = infer_labels(features[:400], labels[:400], features[400:], 4)
    # 200 guesses at four classes: standard error 0.03.
    assert measure_accuracy(blind, labels[400:])["accuracy"] == pytest.approx(0.25, abs=0.1)
    features[:, 1, 0, 0] += labels * 1e-4
    features[:, 0, 2, 2] += (labels == 1) * 1e-4
    features[:, 0, 1, 2] += (labels == 2) * 1e-4
    found = infer_labels(features[:400], labels[:400], features[400:], 4)
    assert measure_accuracy(found, labels[400:])["accuracy"] > 0.97


def test_features_that_are_constant_do_no_harm():
    features = torch.zeros(8, 3)
    guessed = infer_labels(features, torch.tensor([0, 1] * 4), features, 2)
    assert guessed.shape == (8,) and guessed.unique().numel() == 1


def test_chance_is_the_commonest_class():
    assert guess_commonest(torch.tensor([2, 2, 0, 1])) == {"accuracy": 0.5}
