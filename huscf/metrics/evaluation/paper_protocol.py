"""How the paper measures its samples, and the figures that its released code ships."""

from collections.abc import Collection
from typing import NamedTuple

from ..classifier_training import ClassifierTraining
from .domain_scores import Effort
from .settings import EvaluationSettings

NUM_SAMPLES = 30_000
EPOCHS = 15

#: What the published figures cost and rest on, in the words of the tables.
PUBLISHED_BUDGET = (
    "50 rounds of 5 epochs, batch 64, 80 or 100 clients that share all training data, "
    "generator of 2,221,925 parameters, one run"
)


class PublishedResult(NamedTuple):
    """What one scenario of the paper ended with in one domain.

    Args:
        scenario: Its number in the paper, 1 to 6.
        what: Its domains and how their data are divided.
        domain: As huscf.datamodules.ImageDataModule names it.
        accuracy: Of the downstream classifier on real test data, in [0, 1].
        score: Generation score, 1 to 10.
    """

    scenario: int
    what: str
    domain: str
    accuracy: float
    score: float


#: Source: the results shipped with the released code of arXiv:2507.12979.
PUBLISHED = (
    PublishedResult(1, "one domain, IID", "mnist", 0.9787, 9.95),
    PublishedResult(2, "one domain, non-IID", "mnist", 0.9717, 9.95),
    PublishedResult(3, "two domains, IID", "mnist", 0.9683, 9.95),
    PublishedResult(3, "two domains, IID", "fashion_mnist", 0.8293, 9.15),
    PublishedResult(4, "two domains, non-IID", "mnist", 0.9621, 9.95),
    PublishedResult(4, "two domains, non-IID", "fashion_mnist", 0.8190, 9.10),
    PublishedResult(5, "two domains, highly non-IID", "mnist", 0.9615, 9.95),
    PublishedResult(5, "two domains, highly non-IID", "fashion_mnist", 0.8146, 9.04),
    PublishedResult(6, "four domains, IID", "mnist", 0.9594, 9.84),
    PublishedResult(6, "four domains, IID", "fashion_mnist", 0.8194, 8.91),
    PublishedResult(6, "four domains, IID", "kmnist", 0.7291, 9.29),
    PublishedResult(6, "four domains, IID", "notmnist", 0.8830, 9.33),
)


def paper_settings() -> EvaluationSettings:
    """Return settings with the paper's downstream classifier; distances stay as ours."""
    return EvaluationSettings(
        downstream=ClassifierTraining(epochs=EPOCHS), max_downstream=NUM_SAMPLES
    )


def paper_effort(num_classes: int, num_seeds: int) -> Effort:
    """Return the paper's number of samples, over all clients of a domain, and no single ones."""
    return Effort(max(1, NUM_SAMPLES // num_classes), num_seeds)


def find_published(domains: Collection[str]) -> list[PublishedResult]:
    """Return the results of the scenarios of just these domains, else of all that have any."""
    of_scenario: dict[int, set[str]] = {}
    for result in PUBLISHED:
        of_scenario.setdefault(result.scenario, set()).add(result.domain)
    same = {number for number, names in of_scenario.items() if names == set(domains)}
    return [
        result
        for result in PUBLISHED
        if result.domain in domains and (not same or result.scenario in same)
    ]
