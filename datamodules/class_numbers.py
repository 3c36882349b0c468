"""Which classes a run has: those that somebody has samples of, numbered from 0 without a gap."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from .bad_data import BadInput
from .domain import Domain

_NAMED = 5


def drop_untrained(domains: Sequence[Domain]) -> tuple[list[Domain], dict[str, list[BadInput]]]:
    """Leave out what is held out of classes that no domain trains on: no score could count it.

    Returns:
        The domains, and what was left out by domain name.
    """
    used = _find_used(domains)
    kept, bad = [], {}
    for domain in domains:
        labels, names = domain.test_labels.numpy(), domain.class_names
        is_trained = np.isin(labels, used)
        if is_trained.all():
            kept.append(domain)
            continue
        bad[domain.name] = [
            BadInput(
                f"test sample of class {names[labels[row]] if names else labels[row]}, of which no "
                "training sample is",
                f"test row {row}",
            )
            for row in np.flatnonzero(~is_trained)
        ]
        rows = torch.from_numpy(np.flatnonzero(is_trained))
        samples, labels_kept = domain.test_samples[rows], domain.test_labels[rows]
        kept.append(replace(domain, test_samples=samples, test_labels=labels_kept))
    return kept, bad


def drop_unused_classes(domains: Sequence[Domain], keeps_numbers: bool = False) -> list[Domain]:
    """Number the classes anew where some have no training sample in any domain.

    Nothing could be learnt of these, and drawing them would give noise. All others keep their
    names; where a domain has none, a class is named by the label that it had. A warning says so.

    Args:
        domains: Their test labels have to be among those that somebody trains on.
        keeps_numbers: Only warn, as at a site: others may have samples of these classes.
    """
    used = _find_used(domains)
    total = max(domain.num_classes for domain in domains)
    if len(used) == total:
        return list(domains)
    unused = _list_unused(used, total, max((d.class_names for d in domains), key=len))
    if keeps_numbers:
        rank_zero_warn(
            f"no training sample has {unused}: other sites may have some, and figures of this one "
            "do not count it",
            stacklevel=5,
        )
        return list(domains)
    renumbered = [_renumber(domain, used) for domain in domains]
    names = max((domain.class_names for domain in renumbered), key=len)
    rank_zero_warn(
        f"no training sample has {unused}: the classes are numbered from 0 to {len(used) - 1} and "
        f"keep their names ({_shorten(names)}). To number and name them yourself give labels from "
        "0 without a gap, and class names of these alone",
        stacklevel=5,
    )
    return renumbered


def warn_of_shared_names(domains: Sequence[Domain]) -> None:
    """Warn where a class of one domain has another number in a second one."""
    for one, other in combinations(domains, 2):
        numbers = {name: number for number, name in enumerate(one.class_names)}
        for number, name in enumerate(other.class_names):
            if numbers.get(name, number) != number:
                rank_zero_warn(
                    f"class {name} is number {numbers[name]} in {one.name} and {number} in "
                    f"{other.name}: what both train together takes them for two classes; if "
                    "they are one, number the classes of both alike",
                    stacklevel=5,
                )
                break


def _find_used(domains: Sequence[Domain]) -> np.ndarray:
    """Return, ascending, the labels that some domain's training samples have."""
    return np.unique(np.concatenate([np.unique(d.train_labels.numpy()) for d in domains]))


def _renumber(domain: Domain, used: np.ndarray) -> Domain:
    own = used[used < domain.num_classes]
    names = [domain.class_names[n] if domain.class_names else str(n) for n in own.tolist()]
    return replace(
        domain,
        train_labels=_look_up(domain.train_labels, used),
        test_labels=_look_up(domain.test_labels, used),
        class_names=tuple(names),
    )


def _look_up(labels: Tensor, used: np.ndarray) -> Tensor:
    return torch.from_numpy(np.searchsorted(used, labels.numpy())).long()


def _list_unused(used: np.ndarray, total: int, names: Sequence[str]) -> str:
    """Return the labels or names between those in use, as "labels 0, 2-6"."""
    ends = [-1, *used.tolist(), total]
    gaps = [(low + 1, high - 1) for low, high in pairwise(ends) if high > low + 1]
    if names:
        return f"class {_shorten([names[n] for low, high in gaps for n in range(low, high + 1)])}"
    return f"label {_shorten([str(a) if a == b else f'{a}-{b}' for a, b in gaps])}"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
