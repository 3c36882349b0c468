"""Which client has taken how many steps, and what these cost each of its records at most."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ...errors import check_complete
from .accounting import Accountant, Exposure
from .checks import check_data, check_same_noise
from .options import DifferentialPrivacy


class RecordBudget:
    """Counts the steps of clients, before they are taken.

    Args:
        options: What is guaranteed.
        batch_sizes: Expected number of records of a batch, by client.
        client_sizes: Records by client.
        keep: Is given the state whenever it has changed, and shall keep it before it returns; None
            leaves that to checkpoints.

    Attributes:
        num_steps: By client; a step that was begun is a step.
    """

    def __init__(
        self,
        options: DifferentialPrivacy,
        batch_sizes: Mapping[int, int],
        client_sizes: Mapping[int, int],
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.options = options
        self.batch_sizes, self.client_sizes = dict(batch_sizes), dict(client_sizes)
        self.accountant = Accountant(options)
        self.num_steps = dict.fromkeys(self.batch_sizes, 0)
        self._keep = keep

    def begin(self) -> None:
        """Refuse, before anything is trained, a guarantee that cannot be given.

        Raises:
            HuscfError: Naming the option.
        """
        check_data(self.options, self.client_sizes)
        if self.options.noise_multiplier:
            now, then = self._expose(0), self._expose(1)
            remedies = "privacy.noise_multiplier, or take smaller batches"
            self.accountant.check_next(now, then, "privacy", "step", remedies)

    def allows(self, client_ids: Collection[int] | None = None) -> bool:
        """Return whether another step of some clients, or of any, stays within the budget."""
        return self.accountant.allows(self._expose(1, client_ids))

    def count(self, client_ids: Collection[int]) -> None:
        """Count a step of some clients, which is about to be taken.

        Raises:
            HuscfError: Where it would exceed the budget.
        """
        self.accountant.check_room(self._expose(1, client_ids), "privacy", "step")
        for client_id in client_ids:
            self.num_steps[client_id] += 1
        if self._keep is not None:
            self._keep(self.get_state())

    def epsilon(self) -> float:
        """Return what the records of the most exposed client have been exposed to."""
        return self.accountant.epsilon(self._expose(0))

    def figures(self) -> dict[str, float]:
        """Return epsilon and delta, by column of metrics.csv; without noise there are none."""
        if not self.options.noise_multiplier:
            return {}
        assert self.options.delta is not None
        return {"privacy/epsilon": self.epsilon(), "privacy/delta": self.options.delta}

    def get_state(self) -> dict[str, Any]:
        """Return how many steps of what were taken."""
        return {
            "private_steps": dict(self.num_steps),
            "private_noise": self.options.noise_multiplier,
            "private_batches": dict(self.batch_sizes),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on counting; of two counts of a client's steps the larger is right.

        Raises:
            CheckpointError: Where the state's steps were not counted, or had other noise or
                batches, so that they would be counted as if they had these.
        """
        check_complete(state, ["private_steps"])
        check_same_noise(state, self.options.noise_multiplier, self.batch_sizes)
        for client_id, count in state["private_steps"].items():
            known = self.num_steps.get(int(client_id), 0)
            self.num_steps[int(client_id)] = max(known, int(count))

    def _expose(self, more: int, client_ids: Collection[int] | None = None) -> list[Exposure]:
        """Return every client's exposure after so many more steps of some, or all, clients."""
        ids = self.num_steps if client_ids is None else client_ids
        return [
            Exposure(self.batch_sizes[c] / self.client_sizes[c], self.num_steps[c] + more)
            for c in ids
        ]
