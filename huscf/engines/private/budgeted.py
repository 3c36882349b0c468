"""What engines have in common under which records are private: a budget of counted steps."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..base import Observation
from ..local import LocalEngine
from .budget import RecordBudget
from .checks import check_private, check_samplewise
from .options import DifferentialPrivacy


class BudgetedEngine(LocalEngine):
    """Counts steps of records, keeps the count with its state, and tells nothing else of records.

    Whoever inherits calls `protect` when the engine is made, and counts each step.
    """

    is_private = True
    privacy: DifferentialPrivacy
    budget: RecordBudget

    def protect(
        self,
        privacy: DifferentialPrivacy,
        batch_sizes: Mapping[int, int],
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Begin to count.

        Args:
            privacy: What is guaranteed.
            batch_sizes: Expected number of records of a batch, by client.
            keep: Keeps what was counted before a step is taken; see RecordBudget.

        Raises:
            HuscfError: Where method or networks do not allow it.
        """
        phase = check_private(self.method, privacy, self.on_nonfinite)
        self.privacy = privacy
        self.wire.kinds |= {"norms"}
        self.budget = RecordBudget(privacy, batch_sizes, self.client_sizes, keep)
        check_samplewise(self.method, self.networks, self.shape, phase)

    def begin(self) -> None:
        """Refuse, before anything is trained, a guarantee that cannot be given."""
        self.budget.begin()

    def is_spent(self) -> bool:
        """Return whether another step of some client would exceed the budget."""
        return not self.budget.allows()

    def figures(self) -> dict[str, float]:
        """Return what the records of the most exposed client have been exposed to."""
        return self.budget.figures()

    def observe(self) -> Observation:
        """Return what the server knows, without what it has seen of records."""
        return replace(super().observe(), summary=None, present=frozenset())

    def get_state(self) -> dict[str, Any]:
        """Return what is not in the parties' parameters, and how many steps of what were taken."""
        return {**super().get_state(), **self.budget.get_state()}

    def set_structure(self, state: Mapping[str, Any], may_join: bool = False) -> tuple[str, ...]:
        """Take over plan, clusters, counters, and the steps that were taken."""
        self.budget.set_state(state)
        return super().set_structure(state, may_join)
