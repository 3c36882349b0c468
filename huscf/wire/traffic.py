"""How many bytes have crossed, by client, kind, place and direction."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from .message import Direction, Kind


class TrafficKey(NamedTuple):
    """What bytes are counted by; see Message."""

    client_id: int
    kind: Kind
    topic: str
    direction: Direction


class Traffic:
    """Counts the bytes of all messages of a run."""

    def __init__(self) -> None:
        self.num_bytes: Counter[TrafficKey] = Counter()

    def count(self, key: TrafficKey, num_bytes: int) -> None:
        """Add what a message took."""
        self.num_bytes[key] += num_bytes

    def total(
        self,
        client_id: int | None = None,
        direction: Direction | None = None,
        kinds: Iterable[Kind] | None = None,
    ) -> int:
        """Sum the bytes so far, of one client, direction or some kinds, or of all (None)."""
        wanted = None if kinds is None else set(kinds)
        return sum(
            count
            for key, count in self.num_bytes.items()
            if client_id in (None, key.client_id)
            and direction in (None, key.direction)
            and (wanted is None or key.kind in wanted)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, sorted: the order in which threads have met clients is chance."""
        return {"num_bytes": sorted([*key, count] for key, count in self.num_bytes.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved counts."""
        self.num_bytes.clear()
        for *key, count in state["num_bytes"]:
            self.num_bytes[TrafficKey(*key)] = count
