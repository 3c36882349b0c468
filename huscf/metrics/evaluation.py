"""All metrics of one domain's synthetic samples in one call."""

from dataclasses import dataclass, field

import torch

from ..errors import HuscfError
from .class_scores import measure_generation_score, measure_label_accuracy
from .classifier_training import ClassifierTraining
from .domain_classifier import DomainClassifier
from .downstream_utility import measure_downstream_utility
from .frechet_distance import FrechetDistance
from .kernel_distance import measure_kernel_distance
from .labelled_samples import LabelledSamples, RealData, check_alike, to_float
from .nearest_real_ratio import NearestRealRatio
from .neighbour_scores import measure_neighbour_scores
from .spectral_distance import SpectralDistance


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and on how many samples.

    Args:
        max_samples: Synthetic, and real, samples that scores and distances use; more are thinned
            at random. Frechet distances of different numbers cannot be compared.
        max_nearest: Samples of each kind in the memorisation check; all training data is searched.
        k: Neighbours for precision, recall, density and coverage.
        downstream: Training of the downstream classifier; None leaves that metric out.
        max_downstream: Most synthetic samples that it is trained on, exactly balanced.
        spectrogram_range_db: dB between -1 and 1 where samples are log-mel spectrograms, for the
            spectral distance; None where they are pictures.
    """

    max_samples: int = 10_000
    max_nearest: int = 2_000
    k: int = 5
    downstream: ClassifierTraining | None = field(
        default_factory=lambda: ClassifierTraining(epochs=5)
    )
    max_downstream: int = 10_000
    spectrogram_range_db: float | None = None

    @classmethod
    def quick(cls, max_samples: int = 1_000) -> "EvaluationSettings":
        """Return settings for a look during training: a subset, and nothing is trained."""
        return cls(max_samples=max_samples, max_nearest=max(1, max_samples // 5), downstream=None)


def evaluate_samples(
    synthetic: LabelledSamples,
    real: RealData,
    judge: DomainClassifier,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure synthetic samples of one domain; no random, gradient or training state is changed.

    Args:
        synthetic: (N, C, H, W) samples and the classes they were asked to be, N > settings.k.
        real: The domain's data; distances are to its test split.
        judge: The domain's classifier, from `load_judge`.
        settings: None means EvaluationSettings().
        seed: Of the thinning and of the downstream classifier.

    Returns:
        generation_score, label_accuracy, frechet_distance, kernel_distance, precision, recall,
        density, coverage and nearest_real_ratio; judge_accuracy, the judge's on real test data;
        frechet_distance_real, that of as many real training samples, which a perfect generator
        would reach; downstream_accuracy, downstream_precision, downstream_recall, downstream_f1
        and downstream_fpr unless left out; spectral_distance_db for spectrograms.

    Raises:
        HuscfError: Where the samples do not match the data or the judge, or are too few.
    """
    settings = settings or EvaluationSettings()
    check_alike(synthetic, real.test, "synthetic", "real")
    synthetic = synthetic.to(real.train.samples.device)
    if (judge.shape, judge.num_classes) != (synthetic.shape, synthetic.num_classes):
        raise HuscfError(
            f"the judge is for {judge.num_classes} classes of shape {judge.shape}, "
            f"the samples are of {synthetic.num_classes} classes and shape {synthetic.shape}"
        )
    figures = {
        **_judge_samples(synthetic, real, judge, settings, seed),
        "nearest_real_ratio": _nearest_real_ratio(synthetic, real, settings, seed),
        "judge_accuracy": judge.test_accuracy,
    }
    if settings.spectrogram_range_db is not None:
        range_db = settings.spectrogram_range_db
        figures["spectral_distance_db"] = _spectral_distance(synthetic, real.test, range_db)
    if settings.downstream is not None:
        balanced = synthetic.balanced(settings.max_downstream, seed).to(judge.device)
        utility = measure_downstream_utility(balanced, real.test, settings.downstream, seed)
        figures |= {f"downstream_{name}": value for name, value in utility.items()}
    return figures


@torch.no_grad()
def _judge_samples(
    synthetic: LabelledSamples,
    real: RealData,
    judge: DomainClassifier,
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, float]:
    """Scores and distances that rest on the judge's features and probabilities."""
    synthetic = synthetic.at_most(settings.max_samples, seed)
    test = judge.inspect(real.test.at_most(settings.max_samples, seed)).features
    train = judge.inspect(real.train.at_most(len(synthetic), seed)).features
    features, probabilities = judge.inspect(synthetic)
    distances = {
        "frechet_distance": _frechet_distance(test, features),
        "frechet_distance_real": _frechet_distance(test, train),
        "kernel_distance": measure_kernel_distance(test, features).item(),
    }
    neighbours = measure_neighbour_scores(test, features, settings.k)
    return {
        "generation_score": measure_generation_score(probabilities),
        "label_accuracy": measure_label_accuracy(probabilities, synthetic.labels.to(judge.device)),
        **distances,
        **{name: value.item() for name, value in neighbours.items()},
    }


def _frechet_distance(real: torch.Tensor, synthetic: torch.Tensor) -> float:
    metric = FrechetDistance(real.shape[1]).to(real.device)
    metric.update(real, real=True)
    metric.update(synthetic, real=False)
    return metric.compute().item()


def _nearest_real_ratio(
    synthetic: LabelledSamples, real: RealData, settings: EvaluationSettings, seed: int
) -> float:
    test = real.test.at_most(settings.max_nearest, seed)
    metric = NearestRealRatio(real.train.samples, test.samples)
    metric.update(synthetic.at_most(settings.max_nearest, seed).samples)
    return metric.compute().item()


def _spectral_distance(synthetic: LabelledSamples, real: LabelledSamples, range_db: float) -> float:
    metric = SpectralDistance(synthetic.num_classes, synthetic.shape[1], range_db)
    for data, is_real in ((synthetic, False), (real, True)):
        metric.update(to_float(data.samples), data.labels.long(), real=is_real)
    return metric.compute().item()
