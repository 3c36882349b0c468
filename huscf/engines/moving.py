"""Blocks that change hands with new cuts, over the wire, with their optimiser state."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..federation import mix_states
from ..parties import read_block, split_moments, write_block
from ..split import CutPlan
from ..wire import SERVER, Message, PartyId
from .base import Move
from .mixing import block_topic

if TYPE_CHECKING:
    from .local import LocalEngine

#: Of every holding: network -> what a party holds from now on.
Held = dict[str, dict[int, nn.Module]]


def move_over_wire(engine: "LocalEngine", plan: CutPlan) -> tuple[Move, ...]:
    """Let every party hold what a new plan says; return what was sent for it."""
    moves = _Moves(engine, plan)
    for name in ["trained"] + (["average"] if engine.server.average is not None else []):
        at_clients = {c: moves.to_client(name, c) for c in plan.client_ids}
        at_server = moves.to_server(name)
        # Everything has been sent: now everybody lets go of what is no longer theirs.
        for client_id, held in at_clients.items():
            holding = getattr(engine.client(client_id), name)
            for network, blocks in held.items():
                cuts = plan.by_client[client_id].cuts
                holding.hold(network, cuts, plan.num_blocks(network), blocks)
        for network, copies in at_server.items():
            getattr(engine.server, name).hold(network, copies)
    for client_id in plan.client_ids:
        client = engine.client(client_id)
        client.set_cuts(plan.by_client[client_id].cuts, engine.networks)
        client.refresh_optimizers(engine.method, moves.moments)
    engine.server.set_plan(plan)
    engine.server.refresh_optimizers(engine.method, moves.moments)
    return moves.by_block()


class _Moves:
    """Sends blocks, and makes the receivers' copies of them.

    Attributes:
        made: What was sent so far.
        moments: Optimiser state of parameters that are new at a party.
    """

    def __init__(self, engine: "LocalEngine", plan: CutPlan) -> None:
        self.engine, self.plan = engine, plan
        self.made: list[Move] = []
        self.moments: dict[nn.Parameter, dict[str, Any]] = {}

    def by_block(self) -> tuple[Move, ...]:
        """Return one move a block, its moving average counted with it."""
        found: dict[tuple[int, str, int], Move] = {}
        for move in self.made:
            key = (move.client_id, move.network, move.block)
            known = found[key].num_bytes if key in found else 0
            found[key] = replace(move, num_bytes=known + move.num_bytes)
        return tuple(found.values())

    def to_client(self, holding: str, client_id: int) -> Held:
        """Return a client's blocks under the new plan; the server sends those it lacks."""
        own = getattr(self.engine.client(client_id), holding)
        server = getattr(self.engine.server, holding)
        held: Held = {}
        for network in own.network_names:
            before = own.blocks(network)
            wanted = self.plan.by_client[client_id].cuts.held(
                network, self.plan.num_blocks(network)
            )
            held[network] = {}
            for index in wanted:
                block = before.get(index)
                if block is None:
                    given = server.segment(network, client_id).block(index)
                    block = self._send(holding, network, index, given, SERVER, client_id)
                held[network][index] = block
        return held

    def to_server(self, holding: str) -> dict[str, list[dict[int, nn.Module]]]:
        """Return the server's copies under the new plan; clients send the blocks it lacks."""
        server = getattr(self.engine.server, holding)
        found: dict[str, list[dict[int, nn.Module]]] = {}
        for network in server.network_names:
            copies: list[dict[int, nn.Module]] = []
            for which, old in enumerate(server.copies(network)):
                blocks: dict[int, nn.Module] = {}
                for index in self.plan.server_blocks(network):
                    if index in old.indices:
                        blocks[index] = old.block(index)
                    elif copies and not server.is_per_cluster(network, index):
                        blocks[index] = copies[0][index]
                    else:
                        givers = [min(server.routed_to(which))]
                        if not server.is_per_cluster(network, index):
                            givers += [c for c in self._users(network, index) if c not in givers]
                        blocks[index] = self._collect(holding, network, index, givers)
                copies.append(blocks)
            found[network] = copies
        return found

    def _users(self, network: str, index: int) -> list[int]:
        """Return the clients that leave a block to the server from now on."""
        count = self.plan.num_blocks(network)
        clients = self.plan.clients
        return [c.client_id for c in clients if index in c.cuts.server_range(network, count)]

    def _collect(self, holding: str, network: str, index: int, givers: list[int]) -> nn.Module:
        """Return the server's new block: a copy of the first giver's, or the mean of its users'."""
        made: dict[int, nn.Module] = {}
        for client_id in givers:
            given = getattr(self.engine.client(client_id), holding).blocks(network)[index]
            made[client_id] = self._send(holding, network, index, given, client_id, SERVER)
        block = made[givers[0]]
        if len(givers) > 1:
            users = [made[c] for c in self._users(network, index)]
            count = len(users)
            matrix = torch.eye(1 + count, dtype=torch.float64)
            matrix[0, 0], matrix[0, 1:] = 0.0, 1 / count
            states = [split_moments(read_block(each))[0] for each in (block, *users)]
            mean = mix_states(states, matrix)[0]
            assert mean is not None
            write_block(block, mean)
        return block

    def _send(
        self,
        holding: str,
        network: str,
        index: int,
        given: nn.Module,
        sender: PartyId,
        receiver: PartyId,
    ) -> nn.Module:
        engine = self.engine
        party = engine.server if sender == SERVER else engine.client(sender)
        optimizer = party.optimizers.get(network) if holding == "trained" else None
        topic = block_topic(network, holding)
        message = Message(sender, receiver, "moved_blocks", topic, read_block(given, optimizer))
        arrived = engine.wire.pass_on(message)
        self.made.append(
            Move(message.client_id, network, index, message.direction, message.num_bytes)
        )
        block = copy.deepcopy(engine.networks[network][index]).to(_device_of(given))
        block.train(given.training)
        for own, theirs in zip(block.parameters(), given.parameters(), strict=True):
            own.requires_grad_(theirs.requires_grad)
        state, moments = split_moments(arrived)
        write_block(block, state)
        named = dict(block.named_parameters())
        for name, value in moments.items():
            key, _, owner = name.partition(".")[2].partition(".")
            self.moments.setdefault(named[owner], {})[key] = value.clone()
        return block


def _device_of(block: nn.Module) -> torch.device:
    tensors = [*block.parameters(), *block.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
