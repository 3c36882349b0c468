"""What a classifier of real data says about samples: generation score and label accuracy."""

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import HuscfError


class GenerationScore(Metric):
    """exp(mean KL(p(y|x) || p(y))), the direction being from the conditional to the marginal.

    Between 1 (every sample looks alike to the classifier) and the number of classes (every
    sample is certain, all classes equally frequent). It ignores whether labels are obeyed and
    saturates near its upper end, so read it beside LabelAccuracy and a Frechet distance.

    Source: Salimans et al., arXiv:1606.03498, with the domain's classifier in Inception's place.

    Args:
        num_classes: Number of classes, at least 1.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    probability_sum: Tensor
    negative_entropy_sum: Tensor
    num_samples: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(sync_on_compute=False)
        zeros = torch.zeros(num_classes, dtype=torch.float64)
        self.add_state("probability_sum", zeros, dist_reduce_fx="sum")
        self.add_state("negative_entropy_sum", zeros.sum(), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor) -> None:
        """Add samples.

        Args:
            probabilities: (N, num_classes), rows summing to 1.
        """
        probabilities = probabilities.double()
        self.probability_sum += probabilities.sum(0)
        self.negative_entropy_sum += torch.xlogy(probabilities, probabilities).sum()
        self.num_samples += len(probabilities)

    def compute(self) -> Tensor:
        """Return the score of all samples so far.

        Raises:
            HuscfError: Where there are none.
        """
        if self.num_samples == 0:
            raise HuscfError("generation score: no samples")
        marginal = self.probability_sum / self.num_samples
        mean_divergence = (
            self.negative_entropy_sum / self.num_samples - torch.xlogy(marginal, marginal).sum()
        )
        return mean_divergence.exp()


class LabelAccuracy(Metric):
    """Share of samples that the classifier takes for the class they were asked to be, in [0, 1]."""

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    num_correct: Tensor
    num_samples: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.add_state("num_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add samples.

        Args:
            scores: (N, num_classes) logits or probabilities.
            labels: (N,) integers.
        """
        self.num_correct += (scores.argmax(1) == labels).sum()
        self.num_samples += len(labels)

    def compute(self) -> Tensor:
        """Return the share over all samples so far.

        Raises:
            HuscfError: Where there are none.
        """
        if self.num_samples == 0:
            raise HuscfError("label accuracy: no samples")
        return self.num_correct.double() / self.num_samples


def measure_generation_score(probabilities: Tensor) -> float:
    """Return the GenerationScore of (N, num_classes) probabilities."""
    metric = GenerationScore(probabilities.shape[1]).to(probabilities.device)
    metric.update(probabilities)
    return metric.compute().item()


def measure_label_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the LabelAccuracy of (N, num_classes) scores and (N,) labels."""
    metric = LabelAccuracy().to(scores.device)
    metric.update(scores, labels)
    return metric.compute().item()
