import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import accuracy_score

from huscf.errors import HuscfError
from huscf.metrics import (
    GenerationScore,
    LabelAccuracy,
    measure_generation_score,
    measure_label_accuracy,
)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_certain_balanced_samples_score_the_number_of_classes(num_classes):
    probabilities = torch.eye(num_classes).repeat(7, 1)
    assert measure_generation_score(probabilities) == pytest.approx(num_classes)


def test_samples_that_all_look_alike_score_one():
    assert measure_generation_score(torch.eye(10)[:1].repeat(50, 1)) == pytest.approx(1)
    assert measure_generation_score(torch.full((50, 10), 0.1)) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 60))
def test_score_equals_scipy_divergences_in_any_batching(seed, num_classes, count):
    logits = torch.randn(count, num_classes, generator=torch.Generator().manual_seed(seed)) * 4
    probabilities = logits.double().softmax(1)
    rows = probabilities.numpy()
    expected = numpy.exp(entropy(rows, rows.mean(0, keepdims=True), axis=1).mean())
    metric = GenerationScore(num_classes)
    for batch in probabilities.split(7):
        metric.update(batch)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)
    assert 1 - 1e-9 <= metric.compute().item() <= num_classes + 1e-9


def test_label_accuracy_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(101, 4, generator=generator)
    labels = torch.randint(4, (101,), generator=generator)
    expected = accuracy_score(labels, scores.argmax(1))
    assert measure_label_accuracy(scores, labels) == pytest.approx(expected)
    metric = LabelAccuracy()
    for some, their in zip(scores.split(10), labels.split(10), strict=True):
        metric.update(some, their)
    assert metric.compute().item() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("metric", [GenerationScore(3), LabelAccuracy()])
def test_no_samples_is_one_clear_line(metric):
    with pytest.raises(HuscfError, match="no samples"):
        metric.compute()
