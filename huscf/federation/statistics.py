"""What the server keeps of the activations that it sees: running sums, never batches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ActivationStatistics:
    """Epoch means of every client's discriminator activations on real data.

    Memory does not depend on the number of batches. Two means are kept: of the activation
    map (to find clusters) and of each sample's softmax over channels (to compare the members of
    a cluster).

    Args:
        boundary: Index of the block whose input is observed, or None to observe nothing.
    """

    def __init__(self, boundary: int | None) -> None:
        self.boundary = boundary
        self._sums: dict[int, Tensor] = {}
        self._distributions: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    @torch.no_grad()
    def update(self, client_ids: Sequence[int], activations: Tensor) -> None:
        """Add one batch of each of K clients.

        Args:
            client_ids: Whose.
            activations: (B, K, C, H, W) or (B, K, C), server side.
        """
        for client_id, own in zip(client_ids, activations.unbind(1), strict=True):
            self._update(client_id, own)

    def _update(self, client_id: int, activations: Tensor) -> None:
        values = activations.detach().float()
        pooled = values.flatten(2).mean(2) if values.ndim > 2 else values
        self._add(self._sums, client_id, values.sum(0))
        self._add(self._distributions, client_id, pooled.softmax(1).sum(0))
        self._counts[client_id] = self._counts.get(client_id, 0) + len(values)

    @property
    def client_ids(self) -> list[int]:
        """Return the clients observed so far, ascending."""
        return sorted(self._counts)

    def features(self) -> Tensor:
        """Return the mean activation map of each observed client, (N, C, H * W) on the CPU."""
        return self._mean(self._sums).flatten(2)

    def distributions(self) -> Tensor:
        """Return the mean channel distribution of each observed client, (N, C); rows sum to 1."""
        return self._mean(self._distributions)

    def reset(self) -> None:
        """Forget everything, for the next round."""
        self._sums, self._distributions, self._counts = {}, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums for a checkpoint."""
        return {
            "sums": dict(self._sums),
            "distributions": dict(self._distributions),
            "counts": dict(self._counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved sums."""
        self._sums = dict(state["sums"])
        self._distributions = dict(state["distributions"])
        self._counts = dict(state["counts"])

    def _mean(self, sums: dict[int, Tensor]) -> Tensor:
        return torch.stack([sums[c].cpu() / self._counts[c] for c in self.client_ids])

    @staticmethod
    def _add(sums: dict[int, Tensor], client_id: int, value: Tensor) -> None:
        if client_id in sums:
            sums[client_id] += value
        else:
            sums[client_id] = value
