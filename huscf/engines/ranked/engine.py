"""The engine for many processes: each trains some of the clients, and all hold the server."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...errors import HuscfError
from ...federation import ActivationStatistics
from ...methods import Method, Phase, run_whole
from ...models import Carry, Network
from ...parties import Client, is_freed
from ...spill import Spill
from ...split import ClientCuts, CutPlan
from ...wire import MemoryWire
from ..base import Batches, Mixture, Move, Observation
from ..stacked import StackedEngine
from ..stacked.run_stacked import can_stack
from ..stacked.step import StackedStep
from ..stacked.threads import GroupThreads
from .client_state import (
    give_memory,
    list_drawn_tensors,
    read_blocks,
    read_moments,
    read_notes,
    sort_moments,
    write_blocks,
    write_notes,
)
from .processes import RankedProcesses
from .ranks import Parcel, Ranks
from .step import RankedStep


class RankedEngine(StackedEngine):
    """Runs what StackedEngine runs, microbatches shared out over processes, to the same bits.

    The server's blocks, its optimisers and all that it knows are alike in every process. A
    client's blocks, moving averages and optimisers have memory in its own process alone; elsewhere
    they are freed, or show what a round has averaged, in the memory of the mean.

    Args:
        engine: Whose parties are taken over; alike in all processes, before the first step.
        ranks: The processes.
        batch_sizes: Samples per step by client id.
        predict_cost: Gives what a step takes for a client of these cuts and so many samples.

    Raises:
        HuscfError: Naming what only one process can do.
    """

    def __init__(
        self,
        engine: StackedEngine,
        ranks: Ranks,
        batch_sizes: Mapping[int, int],
        predict_cost: Callable[[ClientCuts, int], float],
    ) -> None:
        self.__dict__.update(engine.__dict__)
        self.predict_cost = predict_cost
        self.batch_sizes = dict(batch_sizes)
        check_shareable(self, ranks.size)
        self.ranks = ranks
        self._agree_on_plan()
        clients = set(self.plan.client_ids)
        #: Of whom every process has all blocks but for counters, and of whom those to draw from.
        self._known, self._drawable = set(clients), set(clients)
        #: Clients of other processes whose blocks may have memory here.
        self._guests: set[int] = set()
        self._owners = dict.fromkeys(self.plan.client_ids, 0)
        self._place_all()
        self._guests = {c for c, owner in self._owners.items() if owner != ranks.rank}
        self.processes = RankedProcesses(ranks, self.server, self._owners)

    def join(self, ranks: Ranks) -> None:
        """Go on with a new group of the same processes, as where training goes on in them."""
        self.ranks = ranks
        self.processes = RankedProcesses(ranks, self.server, self._owners)

    def on_new_structure(self) -> None:
        """Divide clients anew at the next step."""
        super().on_new_structure()
        self._shared_out: list[list[int]] = []

    def is_stackable(self, client_id: int) -> bool:
        """Return True: networks of which it does not hold are refused at the start."""
        return True

    # A step

    def choose_own(self, sizes: Mapping[int, int]) -> list[int]:
        """Return the clients of a step whose part this process runs."""
        self.share_out(sizes)
        return [c for c in sizes if self._owners[c] == self.ranks.rank]

    def load_batches(self, batches: Batches, step: int) -> list[int]:
        """Hand every client of this process its own batch; return who takes part."""
        loaded, error = [], None
        try:
            loaded = super().load_batches(batches, step)
        except Exception as caught:
            error = caught
        self.ranks.gather(None, error=error)
        return loaded

    def share_out(self, sizes: Mapping[int, int]) -> list[int]:
        """Divide a step's groups of clients among the processes, and hand clients over.

        Args:
            sizes: Samples of every participant.

        Returns:
            Places of the groups that this process runs.
        """
        groups = self.divide(sizes)
        if groups != self._shared_out:
            self._hand_over(self._find_owners(groups, sizes))
            self._shared_out = groups
        self._known.difference_update(sizes)
        self._drawable.difference_update(sizes)
        self._free(self._guests.intersection(sizes))
        rank = self.ranks.rank
        return [place for place, group in enumerate(groups) if self._owners[group[0]] == rank]

    def _begin_step(self, sizes: Mapping[int, int], phases: Sequence[Phase]) -> StackedStep:
        return RankedStep(self, sizes, phases, GroupThreads() if self.uses_threads else None)

    def _find_owners(self, groups: list[list[int]], sizes: Mapping[int, int]) -> dict[int, int]:
        cuts = {entry.client_id: entry.cuts for entry in self.plan.clients}
        costs = [sum(self.predict_cost(cuts[c], sizes[c]) for c in group) for group in groups]
        owners = divide(costs, self.ranks.size)
        pairs = zip(groups, owners, strict=True)
        return {client: owner for group, owner in pairs for client in group}

    def _hand_over(self, owners: Mapping[int, int]) -> None:
        """Let every client be where it is trained from now on, with all that belongs to it."""
        rank = self.ranks.rank
        for client_id, owner in sorted(owners.items()):
            before, client = self._owners[client_id], self.client(client_id)
            if before == owner:
                continue
            is_known = client_id in self._known
            parts: list[Parcel] = []
            if before == rank:
                parts = [read_notes(self, client_id), (None, read_blocks(client, is_known))]
                parts.append(read_moments(client))
                self._guests.add(client_id)
            given: list[Parcel | None] = [*parts] or [None] * 3
            notes, blocks, moments = (self.ranks.carry(before, owner, each) for each in given)
            if owner == rank and notes and blocks and moments:
                write_notes(self, notes)
                client.set_optimizer_state(sort_moments(client, moments))
                # What has arrived is nobody else's; what a round has lent may be.
                client.shares_memory = write_blocks(client, blocks[1], is_known)
                self._guests.discard(client_id)
        self._owners.update(owners)
        self._fused = {}

    def _free(self, client_ids: set[int]) -> None:
        """Free blocks of other processes' clients, which are no longer what they show."""
        for client_id in sorted(client_ids):
            self.client(client_id).free_memory()
        self._guests.difference_update(client_ids)

    def free_guests(self) -> None:
        """Free what this process shows of other processes' clients, before it is moved, say."""
        self._known.clear()
        self._drawable.clear()
        self._free(set(self._guests))

    # A round

    def all_statistics(self) -> list[ActivationStatistics]:
        """Return all that the server knows of clients' activations."""
        return [self.server.statistics, *self.further_statistics]

    def gather_clients(self) -> None:
        """Let every process have what drawing needs of all clients, and what is known of each."""
        self._share_notes()
        rank = self.ranks.rank
        for client_id in self.plan.client_ids:
            if client_id in self._drawable:
                continue
            own = list_drawn_tensors(self.client(client_id), self._drawn)
            source = self._owners[client_id]
            _, arrived = self.ranks.broadcast(source, (None, own) if source == rank else None)
            if source != rank:
                self._guests.add(client_id)
                for tensor, theirs in zip(own, arrived, strict=True):
                    tensor.data = theirs.to(tensor.device)
        self._drawable.update(self.plan.client_ids)

    def observe(self) -> Observation:
        """Return what the server has seen in the round so far."""
        self._share_notes()
        return super().observe()

    def find_diverged(self) -> frozenset[int]:
        """Return the clients whose own blocks are not finite."""
        own = sorted(super().find_diverged())
        return frozenset(c for found, _ in self.ranks.gather(own) for c in found)

    def mix(self, mixture: Mixture) -> None:
        """Close a round: every process averages what it has, and all join the parts alike."""
        super().mix(mixture)
        self._settle()

    def share(self, network: str, classes: Mapping[int, Sequence[int]], number: int) -> None:
        """Let clients show a network; what they said of their classes for it is counted by all."""
        super().share(network, classes, number)
        self._share_notes()

    def apply_plan(self, plan: CutPlan) -> tuple[Move, ...]:
        """Move blocks between clients and server."""
        moves = super().apply_plan(plan)
        self._settle()
        return moves

    def _settle(self) -> None:
        """Find out of which clients every process has all blocks, and gather what is drawn from."""
        self._guests = {c for c in self.plan.client_ids if not self.processes.holds(c)}
        lacking: list[list[int]] = [[], []]
        for client_id in self._guests:
            client = self.client(client_id)
            tensors = (read_blocks(client, False), list_drawn_tensors(client, self._drawn))
            for found, own in zip(lacking, tensors, strict=True):
                if any(is_freed(t) for t in own if t.is_floating_point()):
                    found.append(client_id)
        every = self.ranks.gather(lacking)
        self._known, self._drawable = (
            set(self.plan.client_ids).difference(*(found[which] for found, _ in every))
            for which in range(2)
        )
        self.gather_clients()

    @cached_property
    def _drawn(self) -> tuple[str, ...]:
        return list_drawn_networks(self.method, self.networks)

    def _share_notes(self) -> None:
        """Let every process know what each client's process knows of it."""
        own = [c for c in self.plan.client_ids if self.processes.holds(c)]
        notes = [read_notes(self, client_id) for client_id in own]
        value = [[note, len(tensors)] for note, tensors in notes]
        parcels = self.ranks.gather(value, [t for _, tensors in notes for t in tensors])
        num_bytes = self.wire.traffic.num_bytes
        for key in [k for k in num_bytes if not self.processes.holds(k.client_id)]:
            del num_bytes[key]
        for rank, (theirs, tensors) in enumerate(parcels):
            rest = iter(tensors)
            for note, count in theirs if rank != self.ranks.rank else ():
                write_notes(self, (note, [next(rest) for _ in range(count)]))

    # Checkpoints

    def fetch_state(self) -> dict[str, Tensor]:
        """Return the blocks of other processes' clients by name, in process 0."""
        self._share_notes()

        def read(client_id: int) -> Parcel:
            is_known = client_id in self._known
            lacking = {
                f"clients.{client_id}.{name}": tensor
                for name, tensor in self.client(client_id).state_dict().items()
                if not (is_known and tensor.is_floating_point())
            }
            return list(lacking), list(lacking.values())

        found = self._collect(read)
        return {
            name: tensor
            for names, tensors in found.values()
            for name, tensor in zip(names, tensors, strict=True)
        }

    def get_state(self) -> dict[str, Any]:
        """Return what is not in the parties' parameters; process 0 has the whole of it."""
        self._share_notes()
        state = super().get_state()
        for client_id, moments in self._collect(lambda c: read_moments(self.client(c))).items():
            sorted_moments = sort_moments(self.client(client_id), moments)
            state["optimizers"][str(client_id)] = sorted_moments
        return state

    def _collect(self, read: Callable[[int], Parcel]) -> dict[int, Parcel]:
        """Return what other processes read of their clients, in process 0, in a file."""
        spill, values = Spill(), {}
        for client_id, source in sorted(self._owners.items()):
            if source == 0:
                continue
            parcel = read(client_id) if source == self.ranks.rank else None
            arrived = self.ranks.carry(source, 0, parcel)
            if self.ranks.rank == 0 and arrived is not None:
                values[client_id] = arrived[0], len(arrived[1])
                for tensor in arrived[1]:
                    spill.add(tensor)
        rest = iter(spill.show())
        return {c: (value, [next(rest) for _ in range(n)]) for c, (value, n) in values.items()}

    def set_structure(self, state: Mapping[str, Any], may_join: bool = False) -> tuple[str, ...]:
        """Take over plan, clusters and counters, and place clients before they are loaded."""
        fresh = super().set_structure(state, may_join)
        self._place_all()
        self._guests = {c for c in self.plan.client_ids if not self.processes.holds(c)}
        self.free_guests()
        for party in self.held_parties().values():
            if isinstance(party, Client):
                give_memory(self, party)
        return fresh

    def _place_all(self) -> None:
        """Let clients be where they are if all take part in the first step."""
        groups = self.divide(self.batch_sizes)
        self._owners.update(self._find_owners(groups, self.batch_sizes))

    def _agree_on_plan(self) -> None:
        """Take over process 0's cuts: a search that looks at the clock may find others."""
        (values, _), *_ = self.ranks.gather(self.plan.to_dict())
        plan = CutPlan.from_dict(values)
        self._shared_out = []
        if plan != self.plan:
            super().apply_plan(plan)
            self.wire.traffic.num_bytes.clear()
        self.on_new_structure()


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


def list_drawn_networks(method: Method, networks: Mapping[str, Network]) -> tuple[str, ...]:
    """Return the networks that drawing samples goes through."""
    used: dict[str, None] = {}

    def run(name: str, inputs: Carry) -> Carry:
        used[name] = None
        return run_whole(networks[name], inputs)

    method.sample(run, torch.zeros(2, dtype=torch.int64), torch.Generator().manual_seed(0))
    return tuple(used)


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
