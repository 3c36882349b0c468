"""A round's end over several processes: what is averaged meets as parts of trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import HuscfError
from ...federation import (
    Row,
    TreeSum,
    WeightedMean,
    add_leaves,
    find_rows,
    make_tree,
    spread_rows,
)
from ...parties import Server
from ...wire import SERVER, PartyId
from ..processes import Processes, State
from .ranks import Ranks

Trees = dict[Row, TreeSum[WeightedMean]]


class RankedProcesses(Processes):
    """Several processes, each with the tensors of its own clients and the server's.

    Args:
        ranks: The processes.
        server: The server, alike in all of them.
        owners: The process of every client; it changes as clients go from one to another.
    """

    def __init__(self, ranks: Ranks, server: Server, owners: dict[int, int]) -> None:
        self.ranks, self.server, self.owners = ranks, server, owners

    def holds(self, party: PartyId) -> bool:
        """Return whether this process has a party's tensors."""
        return party == SERVER or self.owners[party] == self.ranks.rank

    def mix(
        self, parties: Sequence[PartyId], states: Sequence[State], matrix: Tensor
    ) -> list[dict[str, Tensor] | None]:
        """Return weighted means, of which every process computes what its own copies allow."""
        each = list(zip(parties, states, strict=True))
        own = [
            (place, state)
            for place, (party, state) in enumerate(each)
            if party != SERVER and self.holds(party)
        ]
        at_server = [(p, state) for p, (party, state) in enumerate(each) if party == SERVER]
        rows = find_rows(matrix)
        trees = {row: make_tree(row) for row in rows}
        for row, tree in trees.items():
            add_leaves(tree, row, at_server)
        shared = {place for place, _ in at_server}
        met = [row for row in rows if any(w > 0 and p not in shared for p, w in enumerate(row))]
        if met:
            self._meet({row: trees[row] for row in met}, own)
        means = {row: tree.result() for row, tree in trees.items()}
        found = {row: mean.own_tensors() for row, mean in means.items() if mean is not None}
        return spread_rows(found, matrix)

    def agree(self, parties: Sequence[PartyId], flags: Sequence[bool]) -> list[bool]:
        """Return for every party what the process says that holds it."""
        said = [flags for flags, _ in self.ranks.gather(list(flags))]
        places = range(len(parties))
        return [said[self._process_of(parties[place])][place] for place in places]

    def raise_together(self, error: HuscfError | None) -> None:
        """Raise in every process what stops any of them, before they wait for each other."""
        self.ranks.gather(None, error=error)

    def carry(self, sender: PartyId, receiver: PartyId, state: State) -> State:
        """Return what a party sends where its receiver is; elsewhere nothing."""
        if sender == SERVER:
            return state
        source = self.owners[sender]
        parcel = (list(state), list(state.values())) if self.ranks.rank == source else None
        if receiver == SERVER:
            arrived = self.ranks.broadcast(source, parcel)
        else:
            found = self.ranks.carry(source, self.owners[receiver], parcel)
            if found is None:
                return {}
            arrived = found
        names, tensors = arrived
        return dict(zip(names, (t.to(self._device) for t in tensors), strict=True))

    def add_up(self, counts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return what all processes have counted, summed by client."""
        total: dict[int, Tensor] = {}
        for clients, tensors in self.ranks.gather(list(counts), list(counts.values())):
            for client, tensor in zip(clients, tensors, strict=True):
                total[client] = total[client] + tensor if client in total else tensor
        return dict(sorted(total.items()))

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.server.parameters()), torch.device("cpu"))

    def _process_of(self, party: PartyId) -> int:
        return self.ranks.rank if party == SERVER else self.owners[party]

    def _meet(self, trees: Trees, own: Sequence[tuple[int, State]]) -> None:
        """Complete trees with the nodes that this process and the others can compute."""
        parts = {row: make_tree(row) for row in trees}
        nodes: list[list[Any]] = []
        tensors: list[Tensor] = []
        for number, (row, part) in enumerate(parts.items()):
            add_leaves(part, row, own)
            for (level, index), mean in part.nodes.items():
                assert mean is not None
                nodes.append([number, level, index, mean.weight, list(mean.tensors)])
                tensors += mean.tensors.values()
        rows = list(trees)
        for rank, (theirs, given) in enumerate(self.ranks.gather(nodes, tensors)):
            if rank == self.ranks.rank:
                for row, part in parts.items():
                    for node, mean in part.nodes.items():
                        trees[row].put(node, mean)
                continue
            rest = iter(given)
            for number, level, index, weight, names in theirs:
                arrived = {name: next(rest).to(self._device) for name in names}
                trees[rows[number]].put((level, index), WeightedMean(weight, arrived, True))
