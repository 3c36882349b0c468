"""Draws a domain's samples from its clients and measures them; changes no state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..metrics import (
    EvaluationSettings,
    JudgeSettings,
    LabelledSamples,
    RealData,
    evaluate_samples,
    load_judge,
)
from ..randomness import derive_seed, make_generator

if TYPE_CHECKING:
    from .split_gan import SplitGAN


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
    """
    samples, labels = [], []
    for position, client_id in enumerate(members):
        count = len(range(position, num_per_class, len(members)))
        wanted = torch.arange(num_classes).repeat_interleave(count)
        stream = make_generator(module.seed, purpose, client_id)
        samples.append(module.sample(client_id, wanted, stream))
        labels.append(wanted)
    return LabelledSamples(torch.cat(samples), torch.cat(labels), num_classes)


def evaluate_domain(
    module: "SplitGAN",
    domain: RealDomain,
    members: Sequence[int],
    num_per_class: int,
    settings: EvaluationSettings,
) -> dict[str, float]:
    """Measure what the clients of one domain generate together.

    Args:
        module: The root module.
        domain: Its real data; a classifier is trained on it once and cached.
        members: The domain's clients.
        num_per_class: Samples drawn of each class.
        settings: What is measured.

    Returns:
        The figures of `huscf.metrics.evaluate_samples`.
    """
    classes = domain.num_classes
    real = RealData(
        LabelledSamples(domain.train_samples, domain.train_labels, classes),
        LabelledSamples(domain.test_samples, domain.test_labels, classes),
    )
    drawn = draw_samples(module, members, classes, num_per_class, "evaluation")
    judge = load_judge(real, JudgeSettings())
    seed = derive_seed(module.seed, "evaluation")
    return evaluate_samples(drawn, real, judge, settings, seed)
