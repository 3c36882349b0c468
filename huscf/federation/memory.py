"""What is remembered of clients that are away, and who sends what no honest client could."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .statistics import ActivationSummary

#: What a client has shown counts so much less whenever it shows more.
AGEING = 0.8

#: A variance so many times the median client's, or so many times less, is no honest client's.
#: Measured: 17 kinds of pictures and sounds, alone or together, 0.04 to 11.
LOUD_VARIANCE = 100.0

#: So is a squared distance from the median client so many times the median variance and squared
#: distance together. Measured: at most 101.
LOUD_DISTANCE = 1000.0

#: Fewer samples than these may be all alike.
_FEW_SAMPLES = 8


def remember(
    known: ActivationSummary | None, new: ActivationSummary | None, sizes: Mapping[int, int]
) -> ActivationSummary | None:
    """Join what was known of clients and what they have shown in a round.

    A client that returns renews its position: the old one counts AGEING. One that is away keeps
    it. Observations of another frame are forgotten, since they cannot be compared with new ones;
    those without a frame are of their round only.

    Args:
        known: Before the round.
        new: Of the round, None where nobody was observed.
        sizes: How many samples each client has; clients that are not in it are forgotten.
    """
    if new is None:
        return known if known is None or known.frame else None
    if known is None or new.frame is None or known.frame != new.frame:
        return new
    old = [c for c in known.client_ids if c in sizes]
    clients = sorted({*old, *new.client_ids})
    entries = [_join(_entry(known, c), _entry(new, c), sizes[c]) for c in clients]
    means, counts, covariances = (np.stack(column) for column in zip(*entries, strict=True))
    maps = np.zeros((len(clients), 1, means.shape[1]))
    return ActivationSummary(clients, means, counts, covariances, maps, new.frame)


_Entry = tuple[np.ndarray, np.ndarray, np.ndarray]


def _entry(summary: ActivationSummary, client: int) -> _Entry | None:
    """Return mean, count and covariance of one client."""
    if client not in summary.client_ids:
        return None
    row = summary.client_ids.index(client)
    return summary.means[row], summary.counts[row], summary.covariances[row]


def _join(old: _Entry | None, new: _Entry | None, size: int) -> _Entry:
    if old is None or new is None:
        entry = old or new
        assert entry is not None
        return entry
    (old_mean, old_count, old_covariance), (new_mean, new_count, new_covariance) = old, new
    aged = AGEING * old_count
    total = aged + new_count
    share = new_count / total
    gap = new_mean - old_mean
    covariance = (1 - share) * old_covariance + share * new_covariance
    covariance += share * (1 - share) * np.outer(gap, gap)
    count = total**2 / (AGEING * aged + new_count)
    return old_mean + share * gap, np.minimum(count, max(size, 1)), covariance


def find_loud(summary: ActivationSummary, known: ActivationSummary | None = None) -> frozenset[int]:
    """Return the clients of a summary whose activations are those of no honest client.

    They vary far more, or less, than the median client's, or lie far from it, or are not finite.
    Of two clients neither is the odd one out: only what is not finite is told.

    Args:
        summary: Of a round.
        known: What is remembered of clients; those that are not in the summary are compared with.
    """
    away = (
        []
        if known is None or known.frame != summary.frame or known.frame is None
        else [client for client in known.client_ids if client not in summary.client_ids]
    )
    means, covariances = summary.means, summary.covariances
    if known is not None and away:
        others = known.select(away)
        means = np.concatenate([means, others.means])
        covariances = np.concatenate([covariances, others.covariances])
    is_finite = np.isfinite(means).all(1) & np.isfinite(covariances).all((1, 2))
    loud = ~is_finite
    if is_finite.sum() > 2:
        variances = np.trace(covariances[is_finite], axis1=1, axis2=2)
        gaps = ((means[is_finite] - np.median(means[is_finite], 0)) ** 2).sum(1)
        scale = np.median(variances)
        is_odd = (variances > LOUD_VARIANCE * scale) | (
            gaps > LOUD_DISTANCE * (scale + np.median(gaps))
        )
        counts = np.concatenate([summary.counts, np.zeros(len(away))])[is_finite]
        is_odd |= (LOUD_VARIANCE * variances < scale) & (counts >= _FEW_SAMPLES)
        loud[np.flatnonzero(is_finite)[is_odd]] = True
    return frozenset(c for c, is_loud in zip(summary.client_ids, loud, strict=False) if is_loud)


def pack(summary: ActivationSummary | None) -> dict[str, Any] | None:
    """Return a summary as plain values and tensors, without its maps."""
    if summary is None:
        return None
    arrays = {name: getattr(summary, name) for name in ("means", "counts", "covariances")}
    packed = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    return {"client_ids": list(summary.client_ids), "frame": summary.frame, **packed}


def unpack(packed: Mapping[str, Any] | None) -> ActivationSummary | None:
    """Return what `pack` has packed."""
    if packed is None:
        return None
    means, counts, covariances = (
        packed[name].numpy() for name in ("means", "counts", "covariances")
    )
    maps = np.zeros((len(means), 1, means.shape[1]))
    return ActivationSummary(
        list(packed["client_ids"]), means, counts, covariances, maps, packed["frame"]
    )
