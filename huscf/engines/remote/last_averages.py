"""Private averages at sites: every client goes on, and draws at the end, from the last one."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..private.averages import PrivateAverages
from ..processes import State
from ..secure_mixing import SumRef
from .block_frames import BlockRef
from .mirror import leave_out_counters

if TYPE_CHECKING:
    from .engine import RemoteEngine


class LastAverages:
    """Knows which clients lack the last average of their cluster, and lets them fetch it.

    Of a client that was away when it was made, or was lost before it had saved it, the next
    average would be measured from a state that it never had; and what it has trained since an
    average tells of it alone.

    Args:
        engine: The server's.
        private: What makes the averages.

    Attributes:
        owed: Clients whose sites have not saved the last average yet.
        trained: Clients that have trained since.
    """

    def __init__(self, engine: "RemoteEngine", private: PrivateAverages) -> None:
        self.engine, self.private = engine, private
        self.owed: set[int] = set()
        self.trained: set[int] = set()
        self._taken: set[int] = set()

    def note_average(self, taken: Iterable[int]) -> None:
        """Note that there is a new average, which some clients have."""
        self.owed, self.trained, self._taken = set(self.engine.plan.client_ids), set(), {*taken}

    def note_join(self, client_ids: Iterable[int]) -> None:
        """Note that a new process of a site goes on from what it saved last."""
        self._taken -= {*client_ids}

    def note_saved(self, client_ids: Iterable[int]) -> None:
        """Note that clients have saved what they have."""
        self.owed -= self._taken & {*client_ids}

    def note_newcomers(self) -> None:
        """Note that clients which have got no average yet begin with the last one there is."""
        if self.private.received:
            self.owed |= {*self.engine.plan.client_ids} - self.private.received.keys()

    def bring(self, client_ids: Iterable[int]) -> list[int]:
        """Let those that lack the last average fetch it; return who has it, in the same order."""
        wanted = list(client_ids)
        self._send([c for c in wanted if self._lacks(c)])
        return [c for c in wanted if not self._lacks(c)]

    def settle(self) -> bool:
        """Let who is there go back to the last average; return whether anybody had to."""
        stale = [c for c in self.engine.present_clients() if not self.is_settled(c)]
        taken = self._send(stale)
        self.trained -= taken
        return bool(stale)

    def is_settled(self, client_id: int) -> bool:
        """Return whether a client has the last average and nothing else."""
        return client_id not in self.trained and not self._lacks(client_id)

    def list_unsettled(self) -> list[str]:
        """Return the sites some client of which is not settled, in the order of the roster."""
        roster = self.engine.sessions.roster
        return [name for name, own in roster.items() if not all(map(self.is_settled, own))]

    def get_state(self) -> dict[str, list[int]]:
        """Return what a server goes on from."""
        return {"owed": sorted(self.owed), "trained": sorted(self.trained)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.owed, self.trained = {*state["owed"]}, {*state["trained"]}

    def _lacks(self, client_id: int) -> bool:
        return client_id in self.owed and client_id not in self._taken

    def _send(self, client_ids: list[int]) -> set[int]:
        """Let clients fetch the last average, as far as there is one; return who has it now."""
        blocks = {ref: state for c in client_ids for ref, state in self._read(c).items()}
        if not blocks:
            return set()
        taken = self.engine.blocks.hand_out(blocks, client_ids) & {*client_ids}
        self._taken |= taken
        return taken

    def _read(self, client_id: int) -> dict[BlockRef, State]:
        """Return the last average of a client's cluster, also as moving averages."""
        clusters, plan = self.engine.clusters, self.engine.plan
        mates = (c for c in plan.client_ids if clusters[c] == clusters[client_id])
        known = self.private.find_last(mates)
        found: dict[BlockRef, State] = {}
        for network, count in plan.blocks if known else ():
            averaged = network in self.engine.method.averaged
            for block in plan.by_client[client_id].cuts.held(network, count):
                part = SumRef(0, "trained", network, block).part
                state = leave_out_counters(known[part])
                for holding in ("trained", "average") if averaged else ("trained",):
                    found[BlockRef(client_id, holding, network, block)] = state
        return found
