"""What an evaluation measures, and on how many samples."""

from dataclasses import dataclass, field

from ..classifier_training import ClassifierTraining
from ..inception_distances import InceptionFeatures


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
        inception: Where FID and KID come from; None leaves them out.
    """

    max_samples: int = 10_000
    max_nearest: int = 2_000
    k: int = 5
    downstream: ClassifierTraining | None = field(
        default_factory=lambda: ClassifierTraining(epochs=5)
    )
    max_downstream: int = 10_000
    spectrogram_range_db: float | None = None
    inception: InceptionFeatures | None = None

    @classmethod
    def quick(cls, max_samples: int = 1_000) -> "EvaluationSettings":
        """Return settings for a look during training: a subset, and nothing is trained."""
        return cls(max_samples=max_samples, max_nearest=max(1, max_samples // 5), downstream=None)
