"""What the server keeps of the activations that it sees: running sums, never batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ActivationSummary:
    """A round's observations. F is the number of channels, times 4 where they are maps.

    Args:
        client_ids: The N clients that were observed, ascending.
        means: (N, F) mean over a client's samples of the channels, pooled to a grid of 2 x 2.
        counts: (N,) effective number of different samples behind each mean.
        covariance: (F, F) of single samples around their client's mean, pooled over clients.
        maps: (N, C, L) mean activation over all samples, L positions; (N, 1, C) without any.
    """

    client_ids: list[int]
    means: np.ndarray
    counts: np.ndarray
    covariance: np.ndarray
    maps: np.ndarray


def _zero() -> Tensor:
    """Return what any sum begins with; it takes the shape of what is added."""
    return torch.zeros((), dtype=torch.float64)


@dataclass
class _Sums:
    """What is known of one client."""

    steps: int = 0
    samples: int = 0
    weight: float = 0.0
    squared_weight: float = 0.0
    values: Tensor = field(default_factory=_zero)
    maps: Tensor = field(default_factory=_zero)

    def add(self, count: int, value_sum: Tensor, map_sum: Tensor, weight: float) -> None:
        self.steps += 1
        self.samples += count
        self.weight += weight * count
        self.squared_weight += weight**2 * count
        self.values = self.values + weight * value_sum
        self.maps = self.maps + map_sum


class ActivationStatistics:
    """Sums over a round of every client's discriminator activations on real data.

    Memory does not depend on the number of batches. Early batches count most: a federation
    gives a cluster's clients equal heads, which drift apart from then on, until activations
    tell one client's head from another's rather than its data.

    Args:
        boundary: Index of the block whose input is observed, or None to observe nothing.
        half_life: Steps after which a client's batch counts half in means and covariance; 0 lets
            all count alike.
    """

    def __init__(self, boundary: int | None, half_life: float = 4.0) -> None:
        self.boundary = boundary
        self.half_life = half_life
        self.reset()

    def reset(self) -> None:
        """Forget everything, for the next round."""
        self._clients: dict[int, _Sums] = {}
        self._second_moments = _zero()
        self._pending: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def update(self, client_ids: Sequence[int], activations: Tensor) -> None:
        """Take a step's batch of each of K clients; threads may do so for different clients.

        Args:
            client_ids: Whose. A client that repeats its step replaces its batch.
            activations: (B, K, C, H, W), (B, K, C, L) or (B, K, C), server side.
        """
        values = activations.detach().float()
        if values.ndim == 3:
            pooled, maps = values, values.sum(0).unsqueeze(1)
        elif values.ndim == 4:
            pooled, maps = values.mean(-1), values.sum(0)
        else:
            pooled, maps = _pool(values), values.sum(0).flatten(2)
        for client_id, own, own_map in zip(client_ids, pooled.unbind(1), maps, strict=True):
            self._pending[client_id] = own, own_map

    @torch.no_grad()
    def fold(self) -> None:
        """Add the step's batches to the sums, clients in fixed order; call it after every step.

        A batch with NaN or Inf is left out: it would end the comparison of all clients.
        """
        if not self._pending:
            return
        client_ids = sorted(self._pending)
        each, maps = zip(*(self._pending[client_id] for client_id in client_ids), strict=True)
        self._pending = {}
        # One copy of each kind off the device, in numbers that every device has.
        sums = torch.stack([values.sum(0) for values in each]).cpu().double()
        map_sums = torch.stack(maps).cpu().double()
        scaled = []
        for client_id, values, own, own_map in zip(client_ids, each, sums, map_sums, strict=True):
            if not own.isfinite().all():
                continue
            known = self._clients.setdefault(client_id, _Sums())
            weight = 2.0 ** (-known.steps / self.half_life) if self.half_life else 1.0
            known.add(len(values), own, own_map, weight)
            scaled.append(weight**0.5 * values)
        if not scaled:
            return
        joined = torch.cat(scaled)
        # Of rounded products the covariance would have negative eigenvalues.
        with torch.autocast(joined.device.type, enabled=False):
            product = joined.T @ joined
        self._second_moments = self._second_moments + product.cpu().double()

    @property
    def client_ids(self) -> list[int]:
        """Return the clients observed so far, ascending."""
        return sorted(self._clients)

    def summarize(self, sizes: Mapping[int, int] | None = None) -> ActivationSummary:
        """Return means and pooled covariance of what was observed; at least one client.

        Args:
            sizes: How many samples each client has: seen again and again they are no more. None
                takes every sample seen for another.
        """
        self.fold()
        known = [self._clients[client_id] for client_id in self.client_ids]
        weights = np.array([each.weight for each in known])
        counts = weights**2 / np.array([each.squared_weight for each in known])
        if sizes is not None:
            counts = np.minimum(counts, [sizes[client_id] for client_id in self.client_ids])
        means = torch.stack([each.values for each in known]).numpy() / weights[:, None]
        within = self._second_moments.numpy() - (means.T * weights) @ means
        # One degree of freedom goes to every client's mean.
        freedom = max((weights * (1 - 1 / counts)).sum(), np.finfo(float).tiny)
        maps = torch.stack([each.maps / each.samples for each in known]).numpy()
        return ActivationSummary(self.client_ids, means, counts, within / freedom, maps)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        self.fold()
        clients = {client_id: vars(known).copy() for client_id, known in self._clients.items()}
        return {"clients": clients, "second_moments": self._second_moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved sums."""
        self.reset()
        self._clients = {client_id: _Sums(**sums) for client_id, sums in state["clients"].items()}
        self._second_moments = state["second_moments"]


def _pool(maps: Tensor) -> Tensor:
    """Return the means of the quarters of maps, (B, K, C, H, W), as (B, K, 4 * C).

    Those of odd sides overlap by one, as an adaptive pooling's do, which some devices lack.
    """
    height, width = (-(-side // 2) for side in maps.shape[-2:])
    quarters = [
        maps[..., rows, columns].mean((-2, -1))
        for rows in (slice(height), slice(-height, None))
        for columns in (slice(width), slice(-width, None))
    ]
    return torch.stack(quarters, -1).flatten(2)
