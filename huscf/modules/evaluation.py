"""Draws a domain's samples from its clients and measures them; changes no state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import HuscfError
from ..metrics import (
    EvaluationSettings,
    JudgeSettings,
    LabelledSamples,
    RealData,
    RealReference,
    evaluate_samples,
    load_judge,
)
from ..randomness import derive_seed, make_generator

if TYPE_CHECKING:
    from .split_gan import SplitGAN


#: Most samples of each class that a single client draws: its figures are quick ones.
CLIENT_NUM_PER_CLASS = 100


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


def draw_samples(
    module: "SplitGAN", members: Sequence[int], num_classes: int, num_per_class: int, purpose: str
) -> LabelledSamples:
    """Draw balanced samples, shared out over clients.

    Args:
        module: The root module.
        members: Clients that draw; each gets every len(members)-th sample of every class.
        num_classes: Classes to draw, 0..num_classes - 1.
        num_per_class: Samples of each class over all members.
        purpose: Names the random stream, together with the module's seed.

    Raises:
        HuscfError: Where a client draws NaN or Inf.
    """
    samples, labels = [], []
    for position, client_id in enumerate(members):
        count = len(range(position, num_per_class, len(members)))
        wanted = torch.arange(num_classes).repeat_interleave(count)
        stream = make_generator(module.seed, purpose, client_id)
        samples.append(module.sample(client_id, wanted, stream))
        if not samples[-1].isfinite().all():
            raise HuscfError(f"client {client_id} draws NaN or Inf: its training diverged")
        labels.append(wanted)
    return LabelledSamples(torch.cat(samples), torch.cat(labels), num_classes)


class DomainEvaluator:
    """One domain's real data and its judge, made when first needed and then kept.

    Args:
        domain: The real data; a classifier is trained on it once and cached on disk.
        spectrogram_range_db: dB between -1 and 1 where samples are spectrograms, else None.
        plain_judge: Whether the judge is that of JudgeSettings.plain().
    """

    def __init__(
        self,
        domain: RealDomain,
        spectrogram_range_db: float | None = None,
        plain_judge: bool = False,
    ) -> None:
        self.domain = domain
        self.spectrogram_range_db = spectrogram_range_db
        self.plain_judge = plain_judge

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
        return RealReference(self.real, load_judge(self.real, settings))

    def measure(
        self,
        module: "SplitGAN",
        members: Sequence[int],
        num_per_class: int,
        settings: EvaluationSettings,
        seed: int = 0,
    ) -> dict[str, float]:
        """Measure what clients of the domain generate together.

        Args:
            module: The root module.
            members: The clients that draw.
            num_per_class: Samples drawn of each class over all of them.
            settings: What is measured.
            seed: Together with the module's it fixes noise, thinning and downstream classifier.

        Returns:
            The figures of `huscf.metrics.evaluate_samples`.

        Raises:
            HuscfError: Where samples are NaN or Inf because training diverged.
        """
        classes = self.domain.num_classes
        purpose = f"evaluation {seed}"
        drawn = draw_samples(module, members, classes, num_per_class, purpose)
        settings = replace(settings, spectrogram_range_db=self.spectrogram_range_db)
        return evaluate_samples(drawn, self.reference, settings, derive_seed(module.seed, purpose))


@dataclass(frozen=True)
class DomainScores:
    """What test and validate found out about one domain.

    Args:
        domain: Its name.
        by_seed: Figures of samples drawn from all its clients, once for each evaluation seed.
        num_per_class: Samples of each class behind them.
        by_client: Figures of single clients; equally many samples of each, so that they compare.
        num_clients: The domain's clients, of whom by_client may be a part.
        client_num_per_class: Samples of each class of a single client.
    """

    domain: str
    by_seed: dict[int, dict[str, float]]
    num_per_class: int
    by_client: dict[int, dict[str, float]]
    num_clients: int
    client_num_per_class: int

    @property
    def together(self) -> dict[str, float]:
        """Return the mean of the figures over the seeds that have them."""
        every = list(self.by_seed.values())
        names = dict.fromkeys(name for figures in every for name in figures)
        return {name: fmean(f[name] for f in every if name in f) for name in names}


class Effort(NamedTuple):
    """How much of a domain is measured: samples of each class, seeds, and single clients."""

    num_per_class: int
    num_seeds: int
    num_clients: int


def score_domain(
    module: "SplitGAN",
    evaluator: DomainEvaluator,
    members: Sequence[int],
    settings: EvaluationSettings,
    effort: Effort,
) -> DomainScores:
    """Measure what all clients of a domain generate together, then what single ones do.

    Args:
        module: The root module.
        evaluator: The domain's.
        members: The domain's clients.
        settings: What is measured of all together; of single clients it is the quick part.
        effort: How many samples, seeds and single clients.
    """
    count = effort.num_per_class
    by_seed = {
        seed: evaluator.measure(module, members, count, settings, seed)
        for seed in range(effort.num_seeds)
    }
    quick, client_count = EvaluationSettings.quick(), min(count, CLIENT_NUM_PER_CLASS)
    by_client = {
        c: evaluator.measure(module, [c], client_count, quick)
        for c in spread_out(members, effort.num_clients)
    }
    return DomainScores(
        evaluator.domain.name, by_seed, count, by_client, len(members), client_count
    )


def spread_out(members: Sequence[int], limit: int) -> list[int]:
    """Return at most so many members at even distances."""
    count = min(limit, len(members))
    return [members[index * len(members) // count] for index in range(count)]
