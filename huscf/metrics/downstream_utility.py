"""Downstream utility: train a small CNN on synthetic samples, test it on real ones."""

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import HuscfError
from .classifier_training import (
    ClassifierTraining,
    apply_in_batches,
    private_training,
    train_classifier,
)
from .domain_classifier import DomainClassifier
from .labelled_samples import LabelledSamples


class ClassificationFigures(Metric):
    """Accuracy, and precision, recall, F1 and false positive rate averaged over classes.

    All in [0, 1]. Every class that occurs as truth or prediction counts alike; a ratio without
    cases (a class never predicted) counts as 0.

    Args:
        num_classes: Number of classes.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(sync_on_compute=False)
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.long)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add predicted and true classes, each (N,) integers in [0, num_classes)."""
        num_classes = len(self.confusion)
        cells = torch.bincount(labels.long() * num_classes + predictions, minlength=num_classes**2)
        self.confusion += cells.view(num_classes, num_classes)

    def compute(self) -> dict[str, Tensor]:
        """Return accuracy, precision, recall, f1 and fpr.

        Raises:
            HuscfError: Where there are no predictions.
        """
        if self.confusion.sum() == 0:
            raise HuscfError("classification figures: no predictions")
        confusion = self.confusion.double()
        hits, truths, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
        false_alarms, total = predicted - hits, confusion.sum()
        occurs = truths + predicted > 0
        per_class = {
            "precision": _ratio(hits, predicted),
            "recall": _ratio(hits, truths),
            "f1": _ratio(2 * hits, truths + predicted),
            "fpr": _ratio(false_alarms, total - truths),
        }
        means = {name: values[occurs].mean() for name, values in per_class.items()}
        return {"accuracy": hits.sum() / total, **means}


def measure_downstream_utility(
    synthetic: LabelledSamples,
    real_test: LabelledSamples,
    training: ClassifierTraining,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Return the ClassificationFigures, on real test data, of a CNN trained on these samples.

    The CNN: two 3x3 convolutions of 32 and 64 channels with max pooling (one more for each
    doubling beyond 32 pixels), a hidden layer of 128, Adam.

    Args:
        synthetic: Training data; give exactly balanced ones (`LabelledSamples.balanced`) where
            they can be drawn.
        real_test: (M, C, H, W) of the same shape and classes.
        training: How long; the paper has 15 epochs of 30,000 samples.
        seed: Of the initial weights and of the order of samples.
        steps: So many optimiser steps instead of training.epochs.
        device: Where the CNN is trained; None is where the training data are.

    Source: the experiments of arXiv:2507.12979.
    """
    device = device or synthetic.samples.device
    with private_training(seed):
        classifier = DomainClassifier(
            synthetic.shape, synthetic.num_classes, width=32, normalize=False
        ).to(device)
        train_classifier(classifier, synthetic, training, steps)
    predictions = apply_in_batches(classifier, real_test).argmax(1)
    figures = ClassificationFigures(synthetic.num_classes).to(device)
    figures.update(predictions, real_test.labels.to(device))
    return {name: value.item() for name, value in figures.compute().items()}


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), 0.0)
