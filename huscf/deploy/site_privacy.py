"""A site's part of privacy of records beside its half: its seeds, batches and own budget."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..engines import DifferentialPrivacy
from ..engines.private.budget import RecordBudget
from ..errors import HuscfError
from .ledger import Ledger


def draw_seed() -> int:
    """Return a seed that nobody else knows, and nobody writes down.

    Every session has its own: a step that is taken again after a server has gone back is another
    step, with other noise and another batch, and counts as one.
    """
    return secrets.randbits(128)


def read_privacy(values: object, max_epsilon: float | None) -> DifferentialPrivacy | None:
    """Return what a server guarantees for records, within a site's own budget.

    Raises:
        HuscfError: Where the site has one and the server guarantees nothing.
    """
    privacy = DifferentialPrivacy(**values) if isinstance(values, dict) else None
    if max_epsilon is None:
        return privacy
    if privacy is None:
        raise HuscfError(
            f"--max_epsilon {max_epsilon:g}: the server's run has no model.privacy, and tells of "
            "records without any limit"
        )
    least = min(max_epsilon, privacy.max_epsilon or max_epsilon)
    return replace(privacy, max_epsilon=least)


def check_sampling(sampling: str, privacy: DifferentialPrivacy | None) -> None:
    """Refuse batches that are not drawn as an accountant takes them to be, or the reverse."""
    if privacy is not None and sampling != "poisson":
        raise HuscfError(
            "data.sampling: the run's model.privacy counts on batches whose records are drawn one "
            "by one: set it to poisson in this site's configuration"
        )
    if privacy is None and sampling == "poisson":
        raise HuscfError(
            "data.sampling: batches drawn by poisson may be empty, which only model.privacy knows "
            "to train on: set it to shuffled in this site's configuration"
        )


def begin_budget(
    privacy: DifferentialPrivacy,
    batch_sizes: Mapping[int, int],
    records: Mapping[int, int],
    folder: Path,
) -> RecordBudget:
    """Return what counts the steps of a site's clients, from what is known of earlier ones.

    Args:
        privacy: What is guaranteed.
        batch_sizes: Expected records of a batch, by client.
        records: Of each client.
        folder: Of the half, where the counts are kept.

    Raises:
        HuscfError: Where it has no room for a first step.
    """
    ledger = Ledger(folder)
    budget = RecordBudget(privacy, batch_sizes, records, ledger.write)
    ledger.read_into(budget)
    if budget.allows() or not any(budget.num_steps.values()):
        budget.begin()
    return budget


def describe_spent(budget: RecordBudget) -> str:
    """Return in words what a site's records have been exposed to."""
    if not (figures := budget.figures()):
        return "privacy: records are clipped, but without noise there is no epsilon"
    most, steps = budget.options.max_epsilon, max(budget.num_steps.values())
    return (
        f"privacy: epsilon {figures['privacy/epsilon']:.3f} at delta "
        f"{figures['privacy/delta']:g} after {steps} steps of its own count, "
        f"{'no limit' if most is None else f'at most {most:g}'}"
    )
