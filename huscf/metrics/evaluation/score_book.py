"""Scores a sampler domain by domain, and keeps what was found out for tables and files."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch

from ...activity import doing
from ...errors import HuscfError
from ..classifier_training import fitting_threads
from ..inception_distances import InceptionFeatures
from .domain_evaluator import DomainEvaluator, RealDomain
from .domain_scores import DomainScores, Effort, score_domain
from .paper_protocol import paper_effort, paper_settings
from .sampler import Sampler
from .settings import EvaluationSettings
from .yardsticks import OwnData

TestProtocol = Literal["huscf", "paper"]


class ClientData(OwnData, Protocol):
    """A client's own data and the domain that they are of."""

    domain: RealDomain


class EvaluatedData(Protocol):
    """What evaluation reads of all data; huscf.datamodules.FederatedDataModule has it."""

    #: Has range_db where samples are spectrograms; None where they are pictures.
    spectrogram: Any

    @property
    def domains(self) -> Mapping[str, RealDomain]:
        """Return the domains by name."""

    @property
    def clients(self) -> Sequence[ClientData]:
        """Return the clients, in order of client id."""


class ScoreBook:
    """Measures the domains that validate and test name, one after the other.

    A domain that cannot be measured is kept with its reason, and the others are measured.

    Args:
        effort: How much of a domain a test measures.
        plain_judge: Whether judges are those of JudgeSettings.plain().
        inception: Where a test's FID and KID come from; None leaves them out.
        protocol: "huscf", or "paper" for a test as the paper's, which has a plain judge.

    Attributes:
        scores: What the present validation or test has measured.
        unscored: Why the other domains could not be, by name.
    """

    def __init__(
        self,
        effort: Effort,
        plain_judge: bool = False,
        inception: InceptionFeatures | None = None,
        protocol: TestProtocol = "huscf",
    ) -> None:
        self.effort = effort
        self.plain_judge = plain_judge or protocol == "paper"
        self.inception = inception
        self.protocol = protocol
        self.scores: list[DomainScores] = []
        self.unscored: dict[str, HuscfError] = {}
        self._evaluators: dict[str, DomainEvaluator] = {}

    def begin_validation(self) -> None:
        """Forget earlier scores."""
        self.scores, self.unscored = [], {}

    def begin_test(self) -> None:
        """Forget earlier scores; say at once if Inception cannot be loaded."""
        self.begin_validation()
        if self.inception is not None:
            _ = self.inception.extractor

    def validate(self, sampler: Sampler, data: EvaluatedData, name: str) -> dict[str, float]:
        """Return quick figures of one draw of a domain's samples; see `test`."""
        effort = Effort(self.effort.num_per_class)
        return self._score(sampler, data, name, EvaluationSettings.quick(), effort)

    def test(self, sampler: Sampler, data: EvaluatedData, name: str) -> dict[str, float]:
        """Measure a domain over seeds, and its clients one by one.

        Args:
            sampler: Draws the samples.
            data: The domains and whose they are.
            name: The domain.

        Returns:
            The figures' means; {} where the domain cannot be measured.
        """
        settings, effort = EvaluationSettings(), self.effort
        if self.protocol == "paper":
            settings = paper_settings()
            effort = paper_effort(data.domains[name].num_classes, effort.num_seeds)
        settings = replace(settings, inception=self.inception)
        return self._score(sampler, data, name, settings, effort)

    def close(self) -> None:
        """Warn of every domain without scores.

        Raises:
            HuscfError: What the first one met, where no domain has scores.
        """
        if self.unscored and not self.scores:
            raise next(iter(self.unscored.values()))
        for name, error in self.unscored.items():
            warnings.warn(f"{name}: not scored: {error}", stacklevel=2)

    def measure(
        self,
        sampler: Sampler,
        data: EvaluatedData,
        name: str,
        settings: EvaluationSettings,
        effort: Effort,
    ) -> DomainScores:
        """Return what a domain's clients generate, together and alone; see `score_domain`.

        Raises:
            HuscfError: Where the domain, or what is drawn of it, cannot be measured.
        """
        owners = [client for client in data.clients if client.domain.name == name]
        names, size = list(data.domains), data.domains[name].train_samples[0].numel()
        what = f"measuring {name} {names.index(name) + 1}/{len(names)}"
        with _full_precision(), fitting_threads(size), doing(what):
            evaluator = self.evaluator(data, name, getattr(sampler, "device", None))
            return score_domain(sampler, evaluator, owners, settings, effort)

    def evaluator(
        self, data: EvaluatedData, name: str, device: torch.device | None = None
    ) -> DomainEvaluator:
        """Return what measures a domain of these data on a device; made once."""
        domain = data.domains[name]
        known = self._evaluators.get(name)
        if known is None or known.domain is not domain or known.device != device:
            spectrogram = getattr(data, "spectrogram", None)
            range_db = spectrogram and spectrogram.range_db
            known = DomainEvaluator(domain, range_db, self.plain_judge, device)
            self._evaluators[name] = known
        return known

    def _score(
        self,
        sampler: Sampler,
        data: EvaluatedData,
        name: str,
        settings: EvaluationSettings,
        effort: Effort,
    ) -> dict[str, float]:
        try:
            scores = self.measure(sampler, data, name, settings, effort)
        except HuscfError as error:
            self.unscored[name] = error
            return {}
        self.scores.append(scores)
        return scores.row


@contextmanager
def _full_precision() -> Iterator[None]:
    """Measure in float32 whatever the trainer's precision: judges are kept for other runs."""
    accelerator = torch.accelerator.current_accelerator()
    with ExitStack() as stack:
        for device in {"cpu", accelerator.type if accelerator else "cpu"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
