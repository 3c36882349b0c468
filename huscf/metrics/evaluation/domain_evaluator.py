"""Measures samples of one domain against its real data."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ...errors import HuscfError
from ...randomness import derive_seed
from ..judge_cache import JudgeSettings, load_judge
from ..labelled_samples import LabelledSamples, RealData
from ..real_reference import RealReference
from .draws import Draws
from .sample_figures import evaluate_samples
from .settings import EvaluationSettings
from .yardsticks import OwnData, Yardsticks


class RealDomain(Protocol):
    """What evaluation reads of a domain; huscf.datamodules.Domain has it."""

    name: str
    train_samples: Tensor
    train_labels: Tensor
    test_samples: Tensor
    test_labels: Tensor

    @property
    def num_classes(self) -> int:
        """Return the number of classes of this domain."""


class DomainEvaluator:
    """One domain's real data and its judge, made when first needed and then kept.

    Args:
        domain: The real data; a classifier is trained on it once and cached on disk.
        spectrogram_range_db: dB between -1 and 1 where samples are spectrograms, else None.
        plain_judge: Whether the judge is that of JudgeSettings.plain().
        device: Where the judge and downstream classifiers are; None is where the data are.
    """

    def __init__(
        self,
        domain: RealDomain,
        spectrogram_range_db: float | None = None,
        plain_judge: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.domain = domain
        self.spectrogram_range_db = spectrogram_range_db
        self.plain_judge = plain_judge
        self.device = device

    @cached_property
    def real(self) -> RealData:
        """The real data, checked."""
        domain, classes = self.domain, self.domain.num_classes
        if not len(domain.test_labels):
            raise HuscfError(
                f"domain {domain.name}: no test samples, which the evaluation measures against: "
                "hold some out"
            )
        return RealData(
            LabelledSamples(domain.train_samples, domain.train_labels, classes),
            LabelledSamples(domain.test_samples, domain.test_labels, classes),
        )

    @cached_property
    def reference(self) -> RealReference:
        """The real data with its judge, and what evaluations have found out about them so far."""
        settings = JudgeSettings.plain() if self.plain_judge else JudgeSettings()
        return RealReference(self.real, load_judge(self.real, settings, None, self.device))

    def measure(
        self, drawn: LabelledSamples, settings: EvaluationSettings, seed: int
    ) -> dict[str, float]:
        """Measure samples of the domain.

        Args:
            drawn: The samples.
            settings: What is measured.
            seed: Fixes thinning and downstream classifier; see `Draws.derive_seed`.

        Returns:
            The figures of `huscf.metrics.evaluate_samples`.
        """
        settings = replace(settings, spectrogram_range_db=self.spectrogram_range_db)
        return evaluate_samples(drawn, self.reference, settings, seed)

    def measure_pooled(
        self,
        owners: Sequence[OwnData],
        num_per_class: int,
        settings: EvaluationSettings,
        seed: int = 0,
    ) -> dict[str, float]:
        """Return what sharing the clients' real data would give, beside `measure`'s figures.

        Args:
            owners: The domain's clients.
            num_per_class: Generated samples of each class that it stands beside.
            settings: What is measured; {} where that is no downstream classifier.
            seed: Of the classifier.
        """
        yardsticks = self._yardsticks(num_per_class, settings, seed)
        return {} if yardsticks is None else yardsticks.measure_pooled(owners)

    def measure_usefulness(
        self,
        draws: Draws,
        owner: OwnData,
        num_per_class: int,
        settings: EvaluationSettings,
        alone: bool = True,
    ) -> dict[str, float]:
        """Return what a client's own generator adds to its own data; see `Yardsticks`.

        Args:
            draws: Have its samples.
            owner: The client.
            num_per_class: Samples of each class.
            settings: What is measured; {} where that is no downstream classifier.
            alone: Whether the samples are measured by themselves too.

        Raises:
            HuscfError: Where samples are NaN or Inf because training diverged.
        """
        yardsticks = self._yardsticks(num_per_class, settings)
        if yardsticks is None:
            return {}
        drawn = draws.single(owner.client_id, num_per_class)
        seed = derive_seed(draws.sampler.seed, "usefulness")
        return yardsticks.measure_client(
            owner, drawn.balanced(settings.max_downstream, seed), alone
        )

    def _yardsticks(
        self, num_per_class: int, settings: EvaluationSettings, seed: int = 0
    ) -> Yardsticks | None:
        if settings.downstream is None:
            return None
        classes = self.domain.num_classes
        # As many as LabelledSamples.balanced leaves.
        count = classes * max(1, min(num_per_class, settings.max_downstream // classes))
        return Yardsticks(self.real, settings.downstream, count, seed, self.device)
