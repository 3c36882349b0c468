"""The engine for many processes: each trains some of the clients, and all hold the server."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import HuscfError
from ...methods import Phase
from ...split import CutPlan
from ...wire import MemoryWire
from ..base import Batches, Mixture, Move, Observation
from ..stacked import StackedEngine
from ..stacked.run_stacked import can_stack
from ..stacked.step import StackedStep
from ..stacked.threads import GroupThreads
from .client_state import forget_client, read_client, read_moments, sort_moments, write_client
from .ranks import Ranks
from .step import RankedStep


class RankedEngine(StackedEngine):
    """Runs what StackedEngine runs, microbatches shared out over processes, to the same bits.

    The server's blocks, its optimisers and all that it knows are alike in every process. A
    client's blocks change in its own process alone; at a round's end, or where they are needed,
    all processes get them. The state of a client's optimisers stays in its process.

    Args:
        engine: Whose parties are taken over; alike in all processes.
        ranks: The processes.

    Raises:
        HuscfError: Naming what only one process can do.
    """

    def __init__(self, engine: StackedEngine, ranks: Ranks) -> None:
        self.__dict__.update(engine.__dict__)
        self.ranks = ranks
        self.on_new_structure()
        check_shareable(self, ranks.size)
        #: Who trains a client. Of a client without entry every process has everything.
        self._owners: dict[int, int] = {}
        self._shared_out: list[list[int]] = []
        self._is_current = True
        self._agree_on_plan()

    def load_batches(self, batches: Batches, step: int) -> list[int]:
        """Hand every client of this process its own batch; return who takes part."""
        loaded, error = [], None
        try:
            loaded = super().load_batches(batches, step)
        except Exception as caught:
            error = caught
        self.ranks.gather(None, error=error)
        return loaded

    def share_out(self, groups: list[list[int]], costs: Sequence[float]) -> list[int]:
        """Divide a step's groups of clients among the processes, and hand clients over.

        Args:
            groups: Of clients that run side by side.
            costs: Of every group.

        Returns:
            Places of the groups that this process runs.
        """
        if groups != self._shared_out:
            owners = divide(costs, self.ranks.size)
            pairs = zip(groups, owners, strict=True)
            self._hand_over({client: owner for group, owner in pairs for client in group})
            self._shared_out = groups
        self._is_current = False
        rank = self.ranks.rank
        return [place for place, group in enumerate(groups) if self._owners[group[0]] == rank]

    def gather_clients(self) -> None:
        """Let every process have all clients' blocks, and what the server knows of each."""
        if not self._is_current:
            self._fetch(with_moments=False)

    def observe(self) -> Observation:
        """Return what the server has seen in the round so far."""
        self.gather_clients()
        return super().observe()

    def mix(self, mixture: Mixture) -> None:
        """Close a round; every process averages alike."""
        if mixture.moments == "average":
            self._fetch(with_moments=True)
        self.gather_clients()
        super().mix(mixture)

    def apply_plan(self, plan: CutPlan) -> tuple[Move, ...]:
        """Move blocks between clients and server; every process does so alike."""
        self._fetch(with_moments=True)
        return super().apply_plan(plan)

    def get_state(self) -> dict[str, Any]:
        """Return what is not in the parties' parameters; process 0 has the whole of it."""
        self.gather_clients()
        state = super().get_state()
        for client_id in self.plan.client_ids:
            owner = self._owners.get(client_id)
            if owner is None or owner == 0:
                continue
            client = self.client(client_id)
            own = read_moments(client) if owner == self.ranks.rank else None
            parcel = None if own is None else (list(own), list(own.values()))
            keys, tensors = self.ranks.broadcast(owner, parcel)
            if self.ranks.rank == 0:
                state["optimizers"][str(client_id)] = sort_moments(client, keys, tensors)
        return state

    def _begin_step(self, sizes: Mapping[int, int], phases: Sequence[Phase]) -> StackedStep:
        return RankedStep(self, sizes, phases, GroupThreads() if self.uses_threads else None)

    def _hand_over(self, owners: Mapping[int, int]) -> None:
        """Let every client be where it is trained from now on."""
        rank = self.ranks.rank
        for client_id, owner in sorted(owners.items()):
            before = self._owners.get(client_id)
            if before is not None and before != owner:
                own = before == rank
                read = read_client(self, client_id, not self._is_current, True) if own else None
                parcel = self.ranks.broadcast(before, read)
                if owner == rank:
                    write_client(self, client_id, parcel)
            if owner != rank:
                forget_client(self.client(client_id))
        self._owners.update(owners)

    def _fetch(self, with_moments: bool) -> None:
        """Let every process have what each client's process has."""
        for client_id in self.plan.client_ids:
            owner = self._owners.get(client_id)
            if owner is None:
                continue
            is_own = owner == self.ranks.rank
            read = None
            if is_own:
                read = read_client(self, client_id, not self._is_current, with_moments)
            parcel = self.ranks.broadcast(owner, read)
            if not is_own:
                write_client(self, client_id, parcel)
        self._is_current = True
        if with_moments:
            self._owners, self._shared_out = {}, []

    def _agree_on_plan(self) -> None:
        """Take over process 0's cuts: a search that looks at the clock may find others."""
        (values, _), *_ = self.ranks.gather(self.plan.to_dict())
        plan = CutPlan.from_dict(values)
        if plan != self.plan:
            super().apply_plan(plan)
            self.wire.traffic.num_bytes.clear()


def divide(costs: Sequence[float], parts: int) -> list[int]:
    """Return a part for every place, ascending, so that costs are about even.

    Args:
        costs: Of every place, > 0.
        parts: How many there are at most.
    """
    total, before = sum(costs), 0.0
    found = []
    for cost in costs:
        found.append(min(parts - 1, int(parts * (before + cost / 2) / total)))
        before += cost
    return found


def check_shareable(engine: StackedEngine, num_processes: int) -> None:
    """Refuse what would not be the same bits, or no gain, in several processes.

    Raises:
        HuscfError: Naming it.
    """
    remedy = "set trainer.devices to 1, num_nodes too"
    if num_processes > len(engine.plan.client_ids):
        raise HuscfError(
            f"trainer.devices, num_nodes: {num_processes} processes for "
            f"{len(engine.plan.client_ids)} clients: each needs at least one"
        )
    if not (isinstance(engine.wire, MemoryWire) and engine.wire.is_identity):
        raise HuscfError(
            f"model.wire: what {type(engine.wire).__name__} draws or remembers depends on the "
            f"order of messages, which several processes would change: {remedy}"
        )
    for name, network in engine.networks.items():
        blocks = dict(enumerate(network))
        unknown = [index for index, block in blocks.items() if not can_stack([block])]
        if engine.draws(name, blocks.get(0)):
            unknown.insert(0, 0)
        if unknown:
            raise HuscfError(
                f"{name}: block {unknown[0]} ({type(network[unknown[0]]).__name__}) has layers "
                "that huscf does not know to treat every sample alone and to draw nothing, so that "
                f"the order of clients may matter, which several processes would change: {remedy}"
            )
