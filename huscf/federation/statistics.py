"""What the server keeps of the activations that it sees: running sums, never batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

#: Side of the grid to which a sample's activation map is pooled.
GRID = 2


@dataclass(frozen=True)
class ActivationSummary:
    """A round's observations. F is the number of channels, times 4 where they are maps.

    Args:
        client_ids: The N clients that were observed, ascending.
        means: (N, F) mean over a client's samples of the channels, pooled to a grid of 2 x 2.
        counts: (N,) effective number of samples behind each mean.
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

    def add(self, values: Tensor, map_sum: Tensor, weight: float) -> None:
        self.steps += 1
        self.samples += len(values)
        self.weight += weight * len(values)
        self.squared_weight += weight**2 * len(values)
        self.values = self.values + weight * values.sum(0).double().cpu()
        self.maps = self.maps + map_sum.double().cpu()


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
            activations: (B, K, C, H, W) or (B, K, C), server side.
        """
        values = activations.detach().float()
        if values.ndim == 3:
            pooled, maps = values, values.sum(0).unsqueeze(1)
        else:
            grid = functional.adaptive_avg_pool2d(values.flatten(0, 1), GRID)
            pooled, maps = grid.reshape(*values.shape[:2], -1), values.sum(0).flatten(2)
        for client_id, own, own_map in zip(client_ids, pooled.unbind(1), maps, strict=True):
            self._pending[client_id] = own, own_map

    @torch.no_grad()
    def fold(self) -> None:
        """Add the step's batches to the sums, clients in fixed order; call it after every step."""
        scaled = []
        for client_id, (values, map_sum) in sorted(self._pending.items()):
            known = self._clients.setdefault(client_id, _Sums())
            weight = 2.0 ** (-known.steps / self.half_life) if self.half_life else 1.0
            known.add(values, map_sum, weight)
            scaled.append(weight**0.5 * values)
        self._pending = {}
        if scaled:
            joined = torch.cat(scaled)
            self._second_moments = self._second_moments + (joined.T @ joined).double().cpu()

    @property
    def client_ids(self) -> list[int]:
        """Return the clients observed so far, ascending."""
        return sorted(self._clients)

    def summarize(self) -> ActivationSummary:
        """Return means and pooled covariance of what was observed; at least one client."""
        self.fold()
        known = [self._clients[client_id] for client_id in self.client_ids]
        weights = np.array([each.weight for each in known])
        counts = weights**2 / np.array([each.squared_weight for each in known])
        means = torch.stack([each.values for each in known]).numpy() / weights[:, None]
        within = self._second_moments.numpy() - (means.T * weights) @ means
        # One degree of freedom goes to every client's mean.
        freedom = max(weights.sum() * (1 - len(known) / counts.sum()), np.finfo(float).tiny)
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
