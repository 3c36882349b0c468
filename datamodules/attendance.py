"""Who takes part in which epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import DataError, check_count, check_number
from ..randomness import make_rng


@dataclass(frozen=True)
class Attendance:
    """When clients come and go, and how many of those that are there take part.

    Args:
        participation: Share of the clients that take part in an epoch, > 0 and <= 1; at least two
            of them where there are two. Who does is drawn for every epoch, from (seed, epoch)
            alone.
        first_epochs: First epoch of each client that joins later, by client id.
        last_epochs: Last epoch of each client that leaves for good, by client id.

    Raises:
        DataError: Where a client leaves before it comes.
    """

    participation: float = 1.0
    first_epochs: Mapping[int, int] = field(default_factory=dict)
    last_epochs: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("data.participation", self.participation, 0, 1, is_open=True)
        for name in ("first_epochs", "last_epochs"):
            for client, epoch in getattr(self, name).items():
                check_count(f"data.{name}: epoch of client {client}", epoch, 0)
        for client, last in self.last_epochs.items():
            if last < (first := self.first_epochs.get(client, 0)):
                raise DataError(
                    f"data.last_epochs: client {client} leaves after epoch {last}, before its "
                    f"first, {first}"
                )

    def check_clients(self, client_ids: Sequence[int]) -> None:
        """Raise a DataError where it names a client that there is not."""
        for name in ("first_epochs", "last_epochs"):
            for unknown in sorted(set(getattr(self, name)) - set(client_ids)):
                raise DataError(
                    f"data.{name}: there is no client {unknown}, 0 to {len(client_ids) - 1} are"
                )

    def list_enrolled(self, client_ids: Sequence[int], epoch: int) -> list[int]:
        """Return those of the clients that have come by an epoch, and not left.

        Raises:
            DataError: Where nobody is left.
        """
        there = [c for c in client_ids if self._is_enrolled(c, epoch)]
        if not there:
            raise DataError(
                f"data.last_epochs: no client is left in epoch {epoch} (counted from 0): end the "
                "run before it, or let clients stay"
            )
        return there

    def draw(self, there: Sequence[int], epoch: int, seed: int) -> list[int]:
        """Return who of the clients that are there takes part in an epoch, in their order."""
        count = max(2, round(self.participation * len(there)))
        if count >= len(there):
            return list(there)
        chosen = make_rng(seed, "participation", epoch).choice(len(there), count, replace=False)
        return [there[position] for position in sorted(chosen)]

    def _is_enrolled(self, client_id: int, epoch: int) -> bool:
        return (
            self.first_epochs.get(client_id, 0) <= epoch <= self.last_epochs.get(client_id, epoch)
        )
