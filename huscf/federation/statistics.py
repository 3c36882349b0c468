"""What the server keeps of the activations that it sees: running sums, never batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..randomness import draw_hiding

#: Features are the first so many pooled channels: enough to tell domains apart, few enough for a
#: covariance from some dozens of samples, and as many for wide networks as for narrow ones.
MAX_FEATURES = 64

#: A client's covariance counts as if its trace were at most so many times the clients' median.
MAX_SCALE = 4.0


@dataclass(frozen=True)
class ActivationSummary:
    """Observations of clients. F is the number of features, at most MAX_FEATURES.

    Args:
        client_ids: The N clients that were observed, ascending.
        means: (N, F) mean over a client's samples of the channels, pooled to a grid of 2 x 2.
        counts: (N,) effective number of different samples behind each mean.
        covariances: (N, F, F) of each client's single samples around its mean.
        maps: (N, C, L) mean activation over all samples, L positions; (N, 1, C) without any.
        frame: Summaries with the same frame come from the same, unchanging blocks, so that their
            clients can be compared; those without one can be compared with no other.
    """

    client_ids: list[int]
    means: np.ndarray
    counts: np.ndarray
    covariances: np.ndarray
    maps: np.ndarray
    frame: str | None = None

    @property
    def covariance(self) -> np.ndarray:
        """Return the covariance within clients, (F, F), on which no single client has a hold."""
        return pool_covariances(self.covariances, self.counts)

    def select(self, client_ids: Sequence[int]) -> "ActivationSummary":
        """Return the summary of some of the clients."""
        rows = [self.client_ids.index(client) for client in client_ids]
        return ActivationSummary(
            list(client_ids),
            self.means[rows],
            self.counts[rows],
            self.covariances[rows],
            self.maps[rows],
            self.frame,
        )


def pool_covariances(covariances: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of clients' covariances, weighted by their degrees of freedom.

    One whose trace is above MAX_SCALE times the median counts as if it were that much, and one
    that is not finite not at all.

    Args:
        covariances: (N, F, F).
        counts: (N,) samples behind each.
    """
    is_finite = np.isfinite(covariances).all((1, 2))
    if not is_finite.any():
        return np.zeros(covariances.shape[1:])
    covariances, counts = covariances[is_finite], counts[is_finite]
    traces = np.trace(covariances, axis1=1, axis2=2)
    limit = MAX_SCALE * np.median(traces)
    shares = np.maximum(counts - 1, 0) * np.minimum(1, limit / np.maximum(traces, 1e-300))
    freedom = max(float(np.maximum(counts - 1, 0).sum()), np.finfo(float).tiny)
    return np.tensordot(shares, covariances, 1) / freedom


def limit_covariances(covariances: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return clients' covariances, (N, F, F), none of which exceeds MAX_SCALE times the others'.

    In any direction: a client that varies in a single one, such as that from one domain to
    another, would else make clients along it look alike. Of two clients neither is limited.

    Args:
        covariances: (N, F, F), finite.
        counts: (N,) samples behind each.
    """
    if len(covariances) < 3:
        return covariances
    freedoms = np.maximum(counts - 1, 0)[:, None, None]
    traces = np.trace(covariances, axis1=1, axis2=2)
    scales = np.minimum(1, MAX_SCALE * np.median(traces) / np.maximum(traces, 1e-300))
    scaled = scales[:, None, None] * covariances
    weighted = freedoms * scaled
    others = (weighted.sum(0) - weighted) / np.maximum(freedoms.sum() - freedoms, 1)
    size = covariances.shape[1]
    floor = np.maximum(0.2 * np.trace(others, axis1=1, axis2=2) / size, np.finfo(float).tiny)
    root = np.linalg.cholesky(others + floor[:, None, None] * np.eye(size))
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ scaled @ inverse.transpose(0, 2, 1))
    axes = root @ vectors
    limited = (axes * np.minimum(values, MAX_SCALE)[:, None]) @ axes.transpose(0, 2, 1)
    return np.where((values[:, -1] > MAX_SCALE)[:, None, None], limited, scaled)


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
    products: Tensor = field(default_factory=_zero)
    maps: Tensor = field(default_factory=_zero)

    def add(
        self, count: int, values: Tensor, products: Tensor, maps: Tensor, weight: float
    ) -> None:
        self.steps += 1
        self.samples += count
        self.weight += weight * count
        self.squared_weight += weight**2 * count
        self.values = self.values + weight * values
        self.products = self.products + weight * products
        self.maps = self.maps + maps


class ActivationStatistics:
    """Sums over a round of every client's discriminator activations on real data.

    Memory does not depend on the number of batches.

    Args:
        boundary: Index of the block whose input is observed, or None to observe nothing.
        half_life: Steps after which a client's batch counts half in means and covariance; 0 lets
            all count alike. Where blocks are in training early batches tell most: a federation
            gives a cluster's clients equal heads, which drift apart from then on, until
            activations tell one client's head from another's rather than its data.
        frame: Of the summaries; see ActivationSummary.
    """

    def __init__(
        self, boundary: int | None, half_life: float = 4.0, frame: str | None = None
    ) -> None:
        self.boundary = boundary
        self.half_life = half_life
        self.frame = frame
        self.reset()

    def reset(self) -> None:
        """Forget everything, for the next round."""
        self._clients: dict[int, _Sums] = {}
        self._pending: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def update(self, client_ids: Sequence[int], activations: Tensor) -> None:
        """Take a step's batch of each of K clients; threads may do so for different clients.

        Args:
            client_ids: Whose. A client that repeats its step replaces its batch.
            activations: (B, K, C, H, W), (B, K, C, L), (B, K, C) or (B, K), server side.
        """
        values = activations.detach().float()
        if values.ndim == 2:
            values = values.unsqueeze(2)
        if values.ndim == 3:
            pooled, maps = values, values.sum(0).unsqueeze(1)
        elif values.ndim == 4:
            pooled, maps = values.mean(-1), values.sum(0)
        else:
            pooled, maps = _pool(values), values.sum(0).flatten(2)
        pooled = pooled[..., :MAX_FEATURES]
        for client_id, own, own_map in zip(client_ids, pooled.unbind(1), maps, strict=True):
            self._pending[client_id] = own, own_map

    @torch.no_grad()
    def blur(self, client_id: int, strength: float, rng: np.random.Generator) -> None:
        """Add Gaussian noise to what is pooled of every sample of a client's batch.

        Args:
            client_id: Whose; the batch is one that `update` has taken, and `fold` has not.
            strength: Standard deviation, in units of the batch's root mean square.
            rng: Draws the noise.
        """
        pooled, maps = self._pending[client_id]
        noise = draw_hiding(rng, pooled)
        self._pending[client_id] = pooled + strength * pooled.square().mean().sqrt() * noise, maps

    def drop(self, client_id: int) -> None:
        """Leave a client's batch of this step out."""
        self._pending.pop(client_id, None)

    @torch.no_grad()
    def fold(self) -> None:
        """Add the step's batches to the sums, clients in fixed order; call it after every step.

        A batch with NaN or Inf is left out.
        """
        if not self._pending:
            return
        client_ids = sorted(self._pending)
        each, maps = zip(*(self._pending[client_id] for client_id in client_ids), strict=True)
        self._pending = {}
        # Of rounded products the covariance would have negative eigenvalues.
        with torch.autocast(each[0].device.type, enabled=False):
            squares = torch.stack([values.T @ values for values in each])
        # One copy of each kind off the device, in numbers that every device has.
        sums = torch.stack([values.sum(0) for values in each]).cpu().double()
        products = squares.cpu().double()
        map_sums = torch.stack(maps).cpu().double()
        for position, client_id in enumerate(client_ids):
            if not sums[position].isfinite().all():
                continue
            known = self._clients.setdefault(client_id, _Sums())
            weight = 2.0 ** (-known.steps / self.half_life) if self.half_life else 1.0
            count = len(each[position])
            known.add(count, sums[position], products[position], map_sums[position], weight)

    @property
    def client_ids(self) -> list[int]:
        """Return the clients observed so far, ascending."""
        return sorted(self._clients)

    def num_samples(self, client_id: int) -> int:
        """Return how many samples of a client were observed."""
        return self._clients[client_id].samples if client_id in self._clients else 0

    def summarize(self, sizes: Mapping[int, int] | None = None) -> ActivationSummary:
        """Return means and covariances of what was observed; at least one client.

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
        products = torch.stack([each.products for each in known]).numpy()
        within = products / weights[:, None, None] - means[:, :, None] * means[:, None, :]
        # One degree of freedom goes to every client's mean.
        covariances = within / np.maximum(1 - 1 / counts, np.finfo(float).tiny)[:, None, None]
        covariances[counts < 1.5] = 0.0
        maps = torch.stack([each.maps / each.samples for each in known]).numpy()
        return ActivationSummary(self.client_ids, means, counts, covariances, maps, self.frame)

    def read_client(self, client_id: int) -> tuple[list[float] | None, list[Tensor]]:
        """Return counts and sums of one client for another process; None and [] without any."""
        own = self._clients.get(client_id)
        if own is None:
            return None, []
        counts = [own.steps, own.samples, own.weight, own.squared_weight]
        return counts, [own.values, own.products, own.maps]

    def write_client(
        self, client_id: int, counts: Sequence[Any] | None, sums: Sequence[Tensor]
    ) -> None:
        """Take over what `read_client` gave."""
        if counts is None:
            self._clients.pop(client_id, None)
        else:
            self._clients[client_id] = _Sums(*counts, *sums)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        self.fold()
        return {
            "clients": {client_id: vars(own).copy() for client_id, own in self._clients.items()}
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved sums."""
        self.reset()
        self._clients = {client_id: _Sums(**sums) for client_id, sums in state["clients"].items()}


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
