"""A round's averages where clients are elsewhere: computed on copies of what they send."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...parties import Client, read_block, write_block
from ...split import CutPlan
from ...wire import SERVER, MemoryWire, Message, PartyId
from ..base import Mixture
from ..local import LocalEngine
from ..mixing import mix_over_wire
from ..private.averages import list_trained
from ..processes import Processes, State
from ..secure_mixing import SumPlan, SumRef, plan_sums
from .block_frames import BlockRef

if TYPE_CHECKING:
    from .engine import RemoteEngine


class Mirror:
    """Stands for the clients while a round's blocks are averaged, as in one process.

    Args:
        engine: The server's engine.
        mixture: What is averaged.
    """

    def __init__(self, engine: "RemoteEngine", mixture: Mixture) -> None:
        self.engine, self.mixture, self._whole = engine, mixture, mixture

    def set_present(self, client_ids: Sequence[int]) -> bool:
        """Average over these clients alone; return whether every cluster has one that counts.

        The others' weights go to the members that are there.
        """
        clusters, known = self._whole.clusters, self._whole.weights
        present = [c for c in clusters if c in client_ids]
        totals = dict.fromkeys(clusters.values(), 0.0)
        for client_id in present:
            totals[clusters[client_id]] += known[client_id]
        if not all(totals.values()):
            return False
        is_whole = len(present) == len(known)
        weights = {c: known[c] / (1 if is_whole else totals[clusters[c]]) for c in present}
        self.mixture = replace(self._whole, weights=weights)
        self._stand_in = StandIn(self.engine, present)
        return True

    @property
    def plan(self) -> CutPlan:
        """Return the cuts of the clients that are there."""
        return self._stand_in.plan

    def list_sent(self) -> list[BlockRef]:
        """Return the blocks that clients have to send.

        Those are what somebody else weighs; where averages are private, all that is trained.
        """
        if self.mixture.private is not None:
            return [_refer(c, ref) for ref, owners in list_trained(self._sums()) for c in owners]
        listing = copy.copy(self._stand_in)
        listing.server, listing.processes = copy.deepcopy(listing.server), _Unmixed()
        listing.wire = wire = _Recorder(listing.refs())
        # What is sent does not depend on moments, nor on values.
        mix_over_wire(cast(LocalEngine, listing), replace(self.mixture, moments="keep"))
        return wire.sent

    def mix(
        self,
        given: Mapping[BlockRef, Mapping[str, Tensor]],
        sums: Mapping[SumRef, Mapping[str, Tensor]] | None = None,
    ) -> dict[BlockRef, Mapping[str, Tensor]]:
        """Average at the server; return the new state of the clients' blocks that change.

        Args:
            given: What clients sent, those among them that are there no more.
            sums: Where sums are secure, the means of what they have added up, in place of that.
        """
        if (private := self.mixture.private) is not None:
            plan, engine = self._sums(), self.engine
            trained = list_trained(plan)
            sent = {(c, ref): given[_refer(c, ref)] for ref, owners in trained for c in owners}
            seed = engine.noise_seed
            given, sums = {}, private.average(self.mixture, plan, sent, engine.networks, seed)
        stand_in = self._stand_in
        given = {ref: state for ref, state in given.items() if ref.client_id in stand_in.clients}
        with_moments = self.mixture.moments == "average"
        if with_moments:
            for client in stand_in.clients.values():
                client.make_optimizers(self.engine.method)
        for ref, state in given.items():
            write_block(stand_in.block(ref), state, stand_in.optimizer(ref))
        before = {ref: _version(stand_in.block(ref)) for ref in stand_in.refs().values()}
        mix_over_wire(cast(LocalEngine, stand_in), self.mixture, sums)
        return {
            ref: leave_out_counters(read_block(stand_in.block(ref), stand_in.optimizer(ref)))
            for ref, version in before.items()
            if _version(stand_in.block(ref)) != version
        }

    def _sums(self) -> SumPlan:
        """Return who holds which blocks, of the clients that are there."""
        return plan_sums(self.plan, self.mixture, self.engine.method.averaged)


def _refer(client_id: int, ref: SumRef) -> BlockRef:
    """Return a client's copy of a block."""
    return BlockRef(client_id, ref.holding, ref.network, ref.block)


class _Recorder(MemoryWire):
    """Notes whose blocks are sent."""

    def __init__(self, refs: Mapping[int, BlockRef]) -> None:
        super().__init__()
        self.refs = refs
        self.sent: list[BlockRef] = []

    def transmit(self, message: Message) -> Mapping[str, Tensor]:
        if message.receiver == SERVER and message.tensors:
            self.sent.append(self.refs[_address(message.tensors)])
        return message.tensors


class _Unmixed(Processes):
    """Computes no mean, as nobody asks for it."""

    def mix(
        self, parties: Sequence[PartyId], states: Sequence[State], matrix: Tensor
    ) -> list[dict[str, Tensor] | None]:
        return [None] * len(states)


class StandIn:
    """What `mix_over_wire` needs of an engine, with copies of the clients that are there."""

    def __init__(self, engine: "RemoteEngine", present: Sequence[int]) -> None:
        self.server, self.method, self.networks = engine.server, engine.method, engine.networks
        self.wire, self.processes = MemoryWire(), Processes()
        entries = tuple(engine.plan.by_client[client_id] for client_id in present)
        self.plan = CutPlan(engine.plan.blocks, entries)
        averaged = engine.method.averaged
        self.clients = {e.client_id: Client(e, engine.networks, averaged) for e in entries}
        for client in self.clients.values():
            client.own_memory()  # it is written, and told apart by where it lies

    def client(self, client_id: int) -> Client:
        """Return the copy of a client."""
        return self.clients[client_id]

    def forget_moments_of(self, client_ids: Any) -> None:
        """Leave that to the sites, who have the moments."""

    def block(self, ref: BlockRef) -> torch.nn.Module:
        """Return a client's block."""
        holding = getattr(self.clients[ref.client_id], ref.holding)
        return holding.blocks(ref.network)[ref.block]

    def optimizer(self, ref: BlockRef) -> torch.optim.Optimizer | None:
        """Return the optimiser of a block, where it is trained and there is one."""
        optimizers = self.clients[ref.client_id].optimizers
        return optimizers.get(ref.network) if ref.holding == "trained" else None

    def refs(self) -> dict[int, BlockRef]:
        """Return every client's blocks that have tensors, by where the first of these lies."""
        found: dict[int, BlockRef] = {}
        for client_id, client in self.clients.items():
            for name in client.holding_names:
                holding = getattr(client, name)
                for network in holding.network_names:
                    for index, block in holding.blocks(network).items():
                        if state := read_block(block):
                            ref = BlockRef(client_id, name, network, index)
                            found[_address(state)] = ref
        return found


def _address(state: Mapping[str, Tensor]) -> int:
    return next(iter(state.values())).data_ptr()


def leave_out_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out counts of batches and steps, which are not averaged: a client keeps its own."""
    return {n: t for n, t in state.items() if t.is_floating_point() and ".step." not in n}


def _version(block: torch.nn.Module) -> list[tuple[int, int]]:
    """Return what changes whenever the block is written, in place or by other memory."""
    return [(t.data_ptr(), t._version) for t in (*block.parameters(), *block.buffers())]
