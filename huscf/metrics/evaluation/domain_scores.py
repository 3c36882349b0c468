"""Scores of one domain over several draws and single clients."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from ...activity import doing
from ...errors import check_count
from .domain_evaluator import DomainEvaluator
from .draws import Draws
from .sampler import Sampler
from .settings import EvaluationSettings
from .yardsticks import OwnData

Member = TypeVar("Member")

#: Most samples of each class that a single client draws: its figures are quick ones.
CLIENT_NUM_PER_CLASS = 100


@dataclass(frozen=True)
class DomainScores:
    """What an evaluation found out about one domain.

    Args:
        domain: Its name.
        by_seed: Figures of samples drawn from all its clients, once for each evaluation seed.
        num_per_class: Samples of each class behind them.
        by_client: Figures of single clients; equally many samples of each, so that they compare.
        num_clients: The domain's clients, of whom by_client may be a part.
        client_num_per_class: Samples of each class of a single client; behind its downstream
            figures there are num_per_class.
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

    @property
    def row(self) -> dict[str, float]:
        """Return `together`, and of what only single clients have mean, spread and least."""
        figures = self.together
        every = list(self.by_client.values())
        for name in dict.fromkeys(name for f in every for name in f if name not in figures):
            values = [f[name] for f in every if name in f]
            figures[name] = fmean(values)
            figures[f"{name}_std"] = stdev(values) if len(values) > 1 else 0.0
            figures[f"{name}_least"] = min(values)
        return figures


@dataclass(frozen=True)
class Effort:
    """How much of a domain is measured.

    Args:
        num_per_class: Samples drawn of each class over all clients, at least 1.
        num_seeds: Draws of all clients together, at least 1.
        num_clients: At most so many single clients; 0 leaves them out.
        num_yardstick_clients: Of at most so many of these, or of all where there are none, it is
            measured what their samples add to their own data; 0 leaves that out.

    Raises:
        HuscfError: Naming the keys of the configuration.
    """

    num_per_class: int
    num_seeds: int = 1
    num_clients: int = 0
    num_yardstick_clients: int = 0

    def __post_init__(self) -> None:
        check_count("model.num_evaluated_per_class", self.num_per_class, 1)
        check_count("model.num_evaluated_seeds", self.num_seeds, 1)
        check_count("model.num_evaluated_clients", self.num_clients)
        check_count("model.num_yardstick_clients", self.num_yardstick_clients)


def score_domain(
    sampler: Sampler,
    evaluator: DomainEvaluator,
    owners: Sequence[OwnData],
    settings: EvaluationSettings,
    effort: Effort,
) -> DomainScores:
    """Measure what all clients of a domain generate together, then what single ones do.

    Single ones take what they, or clients with the same networks, have drawn for all together;
    what lacks is drawn besides.

    Args:
        sampler: Draws the samples.
        evaluator: The domain's.
        owners: The domain's clients and which of its samples are theirs.
        settings: What is measured of all together; of single clients it is the quick part, and
            what their samples are worth to them.
        effort: How many samples, seeds and single clients.
    """
    count, members = effort.num_per_class, [owner.client_id for owner in owners]
    num_yardsticks = effort.num_yardstick_clients if settings.downstream else 0
    singles = spread_out(owners, effort.num_clients)
    quick, client_count = EvaluationSettings.quick(), min(count, CLIENT_NUM_PER_CLASS)
    max_kept = count if num_yardsticks else client_count if singles else 0
    draws = Draws(sampler, evaluator.domain.num_classes, max_kept)
    by_seed = {}
    for seed in range(effort.num_seeds):
        with (
            doing(f"draw {seed + 1} of {effort.num_seeds}")
            if effort.num_seeds > 1
            else nullcontext()
        ):
            drawn = draws.together(members, count, seed)
            by_seed[seed] = evaluator.measure(drawn, settings, draws.derive_seed(seed))
            by_seed[seed] |= evaluator.measure_pooled(owners, count, settings, seed)
    by_client = {}
    for owner in singles:
        with doing(f"client {owner.client_id}"):
            drawn = draws.single(owner.client_id, client_count)
            figures = evaluator.measure(drawn, quick, draws.derive_seed())
        by_client[owner.client_id] = figures
    for owner in spread_out(singles or owners, num_yardsticks):
        alone = owner.client_id in by_client  # else all together stand for single ones
        with doing(f"usefulness to client {owner.client_id}"):
            figures = evaluator.measure_usefulness(draws, owner, count, settings, alone)
        by_client.setdefault(owner.client_id, {}).update(figures)
    name = evaluator.domain.name
    return DomainScores(name, by_seed, count, by_client, len(owners), client_count)


def spread_out(members: Sequence[Member], limit: int) -> list[Member]:
    """Return at most so many members at even distances."""
    count = min(limit, len(members))
    return [members[index * len(members) // count] for index in range(count)]
