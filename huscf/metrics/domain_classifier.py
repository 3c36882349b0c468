"""The judge: a classifier of one domain's real data, on which the scores of samples rest."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .classifier_training import apply_in_batches
from .labelled_samples import LabelledSamples


class Verdict(NamedTuple):
    """What a judge says: features (N, D) and probabilities (N, num_classes)."""

    features: Tensor
    probabilities: Tensor


class DomainClassifier(nn.Module):
    """A small CNN with a feature layer; use `load_judge` to get a trained one.

    The features are normalised over the training data (mean 0, variance 1 each), unless it is
    plain, so that Frechet distances of different domains are of one scale.

    Args:
        shape: (C, H, W) of the samples.
        num_classes: Classes of the domain.
        width: Channels of the first convolution; later ones have twice as many.
        num_features: Width D of the feature layer.
        normalize: Whether batch norm follows every layer but the last; without it it is plain.

    Attributes:
        test_accuracy: On the domain's real test split, in [0, 1]; NaN before it is known.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        width: int = 24,
        num_features: int = 128,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.num_classes = num_classes
        self.test_accuracy = float("nan")
        layers, num_inputs = _make_convolutions(shape, width, normalize)
        norm = [nn.BatchNorm1d(num_features, affine=False)] if normalize else []
        linear = nn.Linear(num_inputs, num_features, bias=not normalize)
        self.trunk = nn.Sequential(*layers, nn.Flatten(), linear, *norm)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(num_features, num_classes))

    @property
    def device(self) -> torch.device:
        """Return where the parameters are."""
        return next(self.parameters()).device

    def forward(self, samples: Tensor) -> Tensor:
        """Return logits, (B, num_classes), of samples, (B, C, H, W) in [-1, 1]."""
        return self.head(self.trunk(samples))

    @torch.no_grad()
    def inspect(self, data: LabelledSamples) -> Verdict:
        """Return features and class probabilities of all samples, in evaluation mode."""
        features = apply_in_batches(self.trunk, data)
        return Verdict(features, self.head(features).softmax(1))


def _make_convolutions(
    shape: tuple[int, int, int], width: int, normalize: bool
) -> tuple[list[nn.Module], int]:
    """Build 3x3 convolutions with max pooling: two, and more until no side exceeds 8 pixels.

    Args:
        shape: (C, H, W) of the samples; any sides.
        width: Channels of the first; the others have twice as many.
        normalize: Whether a batch norm follows each of them.

    Returns:
        The layers, and the number of values of a sample that leave the last of them.
    """
    channels, height, width_px = shape
    layers: list[nn.Module] = []
    count, wanted = 0, width
    while count < 2 or max(height, width_px) > 8:
        norm = [nn.BatchNorm2d(wanted)] if normalize else []
        convolution = nn.Conv2d(channels, wanted, 3, padding=1, bias=not normalize)
        # Pooling before norm and activation: on a quarter of the values.
        layers += [convolution, nn.MaxPool2d(2, ceil_mode=True), *norm, nn.ReLU()]
        height, width_px = (height + 1) // 2, (width_px + 1) // 2
        channels, wanted, count = wanted, 2 * width, count + 1
    return layers, channels * height * width_px
