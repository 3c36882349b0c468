"""All metrics of one domain's synthetic samples in one call."""

import torch
from torch import Tensor

from ...errors import HuscfError
from ...models import to_float
from ..class_scores import measure_generation_score, measure_label_accuracy
from ..downstream_utility import measure_downstream_utility
from ..frechet_distance import compare_features
from ..inception_distances import InceptionFeatures, compare_inception
from ..kernel_distance import measure_kernel_distance
from ..labelled_samples import LabelledSamples, check_alike
from ..neighbour_scores import measure_neighbour_scores
from ..real_reference import RealReference
from ..spectral_distance import SpectralDistance
from .settings import EvaluationSettings


def evaluate_samples(
    synthetic: LabelledSamples,
    reference: RealReference,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure synthetic samples of one domain; no random, gradient or training state is changed.

    Args:
        synthetic: (N, C, H, W) samples and the classes they were asked to be.
        reference: The domain's real data and judge; distances are to its test split. Hand in the
            same one again for more samples: what does not depend on them is kept there.
        settings: None means EvaluationSettings().
        seed: Of the thinning and of the downstream classifier.

    Returns:
        generation_score, label_accuracy, frechet_distance, kernel_distance, precision, recall,
        density, coverage and nearest_real_ratio; judge_accuracy and generation_score_real, the
        judge's accuracy and score on real test data, which a perfect generator would reach;
        frechet_distance_real, that of as many real training samples or of all;
        downstream_accuracy, downstream_precision, downstream_recall, downstream_f1 and
        downstream_fpr unless left out;
        spectral_distance_db for spectrograms; fid and kid where Inception is given.

    All but label_accuracy, the downstream and the spectral figures are of samples whose classes
    are as frequent as in the real test data, so that the mix of classes is no fault of theirs.

    Distances of features need two samples on either side, precision, recall, density and coverage
    more than settings.k; where there are fewer, they are left out.

    Raises:
        HuscfError: Where the samples do not match the data or the judge.
    """
    settings = settings or EvaluationSettings()
    real, judge = reference.real, reference.judge
    check_alike(synthetic, real.test, "synthetic", "real")
    synthetic = synthetic.to(real.test.samples.device)
    if (judge.shape, judge.num_classes) != (synthetic.shape, synthetic.num_classes):
        raise HuscfError(
            f"the judge is for {judge.num_classes} classes of shape {judge.shape}, "
            f"the samples are of {synthetic.num_classes} classes and shape {synthetic.shape}"
        )
    figures = {
        **measure_by_judge(synthetic, reference, settings, seed),
        "nearest_real_ratio": measure_nearest_real(synthetic, reference, settings, seed),
        "judge_accuracy": judge.test_accuracy,
    }
    if settings.spectrogram_range_db is not None:
        range_db = settings.spectrogram_range_db
        figures["spectral_distance_db"] = _spectral_distance(synthetic, real.test, range_db)
    if settings.inception is not None:
        figures |= measure_by_inception(synthetic, reference, settings.inception, seed)
    if settings.downstream is not None:
        balanced = synthetic.balanced(settings.max_downstream, seed).to(judge.device)
        utility = measure_downstream_utility(balanced, real.test, settings.downstream, seed)
        figures |= {f"downstream_{name}": value for name, value in utility.items()}
    return figures


@torch.no_grad()
def measure_by_judge(
    synthetic: LabelledSamples, reference: RealReference, settings: EvaluationSettings, seed: int
) -> dict[str, float]:
    """Return scores and distances by the judge, without those that need more samples."""
    judge, count, k = reference.judge, settings.max_samples, settings.k
    synthetic = synthetic.at_most(count, seed)
    features, probabilities = judge.inspect(synthetic)
    labels = synthetic.labels.to(judge.device)
    # A site may lack a class that others have: its judge knows nothing of it.
    is_known = torch.isin(labels, reference.real.train.labels.to(judge.device))
    right = measure_label_accuracy(probabilities[is_known], labels[is_known])
    # Else a rare class that is drawn as often as the others would count as a fault of its samples.
    rows = _rows_like_test(synthetic, reference, count, seed).to(judge.device)
    features, probabilities = features[rows], probabilities[rows]
    test = reference.test_features(count)
    figures = {
        "generation_score": measure_generation_score(probabilities),
        "generation_score_real": reference.generation_score(count),
        "label_accuracy": right,
    }
    fewest = min(len(test), len(features))
    if fewest > 1:
        kernel_distance = measure_kernel_distance(test, features, reference.kernel(count))
        figures |= {
            "frechet_distance": compare_features(test, features),
            "frechet_distance_real": reference.frechet_distance(count, len(features)),
            "kernel_distance": kernel_distance.item(),
        }
    if fewest > k:
        neighbours = measure_neighbour_scores(test, features, k, reference.radii(count, k))
        figures |= {name: value.item() for name, value in neighbours.items()}
    return figures


def measure_nearest_real(
    synthetic: LabelledSamples, reference: RealReference, settings: EvaluationSettings, seed: int
) -> float:
    """Return the NearestRealRatio of at most settings.max_nearest samples."""
    metric = reference.nearest_real_ratio(settings.max_nearest)
    rows = _rows_like_test(synthetic, reference, settings.max_nearest, seed)
    metric.update(synthetic.samples[rows].to(reference.judge.device))
    return metric.compute().item()


def measure_by_inception(
    synthetic: LabelledSamples, reference: RealReference, inception: InceptionFeatures, seed: int
) -> dict[str, float]:
    """Return "fid" and "kid" of at most inception.max_samples samples, nothing of a single one."""
    rows = _rows_like_test(synthetic, reference, inception.max_samples, seed)
    if min(len(rows), len(reference.test(inception.max_samples))) < 2:
        return {}
    features = inception.extract(synthetic.select(rows).to(reference.judge.device))
    return compare_inception(reference.inception_features(inception), features)


def _rows_like_test(
    synthetic: LabelledSamples, reference: RealReference, count: int, seed: int
) -> Tensor:
    """Return at most so many samples, classes as frequent as among as many test samples."""
    return synthetic.rows_like(reference.test(count).labels, count, seed)


def _spectral_distance(synthetic: LabelledSamples, real: LabelledSamples, range_db: float) -> float:
    metric = SpectralDistance(synthetic.num_classes, synthetic.shape[1], range_db)
    metric.to(synthetic.samples.device)
    for data, is_real in ((synthetic, False), (real, True)):
        metric.update(to_float(data.samples), data.labels.long(), real=is_real)
    return metric.compute().item()
