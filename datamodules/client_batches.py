"""Assembles a step's batch for all clients by indexing, from a position that can be saved."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from ..engines import ClientBatch, LazyBatches
from ..randomness import make_generator, make_rng
from .attendance import Attendance
from .augmentation import Augmentation
from .domain import ClientData

LabelSampling = Literal["natural", "balanced"]
Sampling = Literal["shuffled", "poisson"]


class ClientBatches:
    """Endless shuffled passes over every client's own data, one batch a step for each client.

    A client's order depends on (seed, client, pass) alone, and the position is one step counter;
    saving it makes resuming exact. Clients with less data than the largest pass over theirs
    more often; those that stay away for an epoch skip their part of it.

    Args:
        clients: Who takes part and what they own.
        batch_size: Samples per client and step; a smaller client uses all it has.
        seed: Seed of the orders.
        steps_per_epoch: Length of an epoch, or None for one pass of the largest client.
        augmentation: Random changes of each batch, or None; they depend on (seed, client,
            step) alone.
        label_sampling: "natural", or "balanced": a pass goes through the client's classes in
            turn, so that rare ones are drawn more than once and frequent ones not whole.
        attendance: Who takes part in which epoch; None is everybody in all of them.
        sampling: "shuffled", or "poisson": each of a client's samples is in a step's batch by a
            draw of its own, with the probability that makes batches of that size on average.
    """

    def __init__(
        self,
        clients: Sequence[ClientData],
        batch_size: int,
        seed: int,
        steps_per_epoch: int | None = None,
        augmentation: Augmentation | None = None,
        label_sampling: LabelSampling = "natural",
        attendance: Attendance | None = None,
        sampling: Sampling = "shuffled",
    ) -> None:
        self.clients = list(clients)
        self.batch_size = batch_size
        self.seed = seed
        longest = max(-(-len(client) // batch_size) for client in self.clients)
        self.steps_per_epoch = longest if steps_per_epoch is None else steps_per_epoch
        self.augmentation = augmentation
        self.label_sampling = label_sampling
        self.attendance = attendance or Attendance()
        self.sampling = sampling
        self.step = 0
        self._period: int | None = None
        self._length = self.steps_per_epoch
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[LazyBatches]:
        for _ in range(self.steps_per_epoch):
            step = self.step % self._period if self._period else self.step
            present = {c.client_id: c for c in self.draw_participants(step // self._length)}
            sizes = {name: min(self.batch_size, len(c)) for name, c in present.items()}
            self.step += 1
            yield LazyBatches(sizes, partial(self._take_of, present, step))

    def draw_participants(self, epoch: int) -> list[ClientData]:
        """Return who takes part in an epoch, in order of client id."""
        by_id = {client.client_id: client for client in self.clients}
        there = self.attendance.list_enrolled(list(by_id), epoch)
        return [by_id[chosen] for chosen in self.attendance.draw(there, epoch, self.seed)]

    def repeat(self, limit: int | float) -> None:
        """Give the first batches in every epoch again.

        Args:
            limit: How many, or which part of an epoch; as trainer.overfit_batches.
        """
        self._period = self._count(limit)

    def shorten(self, limit: int | float) -> None:
        """Let an epoch end early, so that who takes part changes between epochs only.

        Args:
            limit: How many batches, or which part of an epoch; as trainer.limit_train_batches.
        """
        self._length = max(1, self._count(limit))

    def _count(self, limit: int | float) -> int:
        length = self.steps_per_epoch
        return min(limit, length) if isinstance(limit, int) else int(limit * length)

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position."""
        self.step = state["step"]

    def _take_of(self, present: Mapping[int, ClientData], step: int, client_id: int) -> ClientBatch:
        return self._take(present[client_id], step)

    def _take(self, client: ClientData, step: int) -> ClientBatch:
        size = min(self.batch_size, len(client))
        choose = self._draw if self.sampling == "poisson" else self._go_on
        index = torch.from_numpy(client.indices[choose(client, size, step)])
        samples = client.domain.train_samples[index]
        if self.augmentation is not None:
            generator = make_generator(self.seed, "augmentation", client.client_id, step)
            samples = self.augmentation(samples, generator)
        return ClientBatch(samples, client.domain.train_labels[index])

    def _draw(self, client: ClientData, size: int, step: int) -> np.ndarray:
        """Return a step's samples, each drawn for itself; there may be none."""
        rng = make_rng(self.seed, "poisson sampling", client.client_id, step)
        return np.flatnonzero(rng.random(len(client)) < size / len(client))

    def _go_on(self, client: ClientData, size: int, step: int) -> np.ndarray:
        """Return the next samples in the order of the client's passes."""
        positions = np.arange(step * size, (step + 1) * size)
        passes, offsets = np.divmod(positions, len(client))
        first, last = int(passes[0]), int(passes[-1])
        chosen = self._order(client, first)[offsets[passes == first]]
        if last != first:
            chosen = np.concatenate([chosen, self._order(client, last)[offsets[passes == last]]])
        return chosen

    def _order(self, client: ClientData, pass_number: int) -> np.ndarray:
        key = (client.client_id, pass_number)
        if key not in self._orders:
            self._orders.pop((client.client_id, pass_number - 2), None)
            rng = make_rng(self.seed, "data order", *key)
            order = rng.permutation(len(client))
            if self.label_sampling == "balanced":
                labels = client.domain.train_labels.numpy()[client.indices]
                order = _balance(order, labels[order], rng)
            self._orders[key] = order
        return self._orders[key]


def _balance(order: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take from the classes that there are in turn, going round within each."""
    of_class = [order[labels == label] for label in rng.permutation(np.unique(labels))]
    turns = -(-len(order) // len(of_class))
    columns = [np.resize(own, turns) for own in of_class]
    return np.stack(columns, axis=1).reshape(-1)[: len(order)]
