"""Blocks that change hands with new cuts, over the wire, with their optimiser state."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..federation import mix_states
from ..parties import free_memory, read_block, split_moments, write_block
from ..split import CutPlan
from ..wire import SERVER, Message, PartyId
from .base import Move, block_topic
from .processes import State

if TYPE_CHECKING:
    from .local import LocalEngine

#: Of every holding: network -> what a party holds from now on.
Held = dict[str, dict[int, nn.Module]]


def move_over_wire(
    engine: "LocalEngine", plan: CutPlan, moves: "Moves | None" = None
) -> tuple[Move, ...]:
    """Let every party hold what a new plan says; return what was sent for it."""
    moves = moves or Moves(engine, plan)
    for name in engine.server.holding_names:
        at_clients = {c: moves.to_client(name, c) for c in plan.client_ids}
        at_server = moves.to_server(name)
        # Everything has been sent: now everybody lets go of what is no longer theirs.
        for client_id, held in at_clients.items():
            moves.let_go(name, client_id, held)
        for network, copies in at_server.items():
            getattr(engine.server, name).hold(network, copies)
    for client_id in plan.client_ids:
        moves.settle(client_id)
    engine.server.set_plan(plan)
    engine.server.refresh_optimizers(engine.method, moves.moments)
    return moves.by_block()


class Sending(NamedTuple):
    """A block that one party sends another.

    Args:
        holding: "trained", or "average" for its moving average.
        network: Of which network.
        block: Its index.
        sender: Who sends it.
        receiver: Who gets it.
    """

    holding: str
    network: str
    block: int
    sender: PartyId
    receiver: PartyId


class Moves:
    """Sends blocks, and makes the receivers' copies of them.

    Args:
        engine: Whose parties' blocks move.
        plan: What they hold from now on.
        givers: Clients that can send a block to the server; None is all.

    Attributes:
        made: What was sent so far.
        moments: Optimiser state of parameters that are new at a party.
    """

    def __init__(
        self, engine: "LocalEngine", plan: CutPlan, givers: Collection[int] | None = None
    ) -> None:
        self.engine, self.plan = engine, plan
        self.givers = plan.client_ids if givers is None else givers
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
                    block = self.bring(holding, network, index, client_id)
                held[network][index] = block
        return held

    def bring(self, holding: str, network: str, index: int, client_id: int) -> nn.Module:
        """Return a client's copy of a block that the server has run for it so far."""
        given = getattr(self.engine.server, holding).segment(network, client_id).block(index)
        return self.send(Sending(holding, network, index, SERVER, client_id), given)

    def let_go(self, holding: str, client_id: int, held: Held) -> None:
        """Let a client hold these blocks and no others."""
        cuts, own = self.plan.by_client[client_id].cuts, self.engine.client(client_id)
        for network, blocks in held.items():
            getattr(own, holding).hold(network, cuts, self.plan.num_blocks(network), blocks)

    def settle(self, client_id: int) -> None:
        """Let a client go on with its new cuts, once it holds what they say."""
        client = self.engine.client(client_id)
        client.set_cuts(self.plan.by_client[client_id].cuts, self.engine.networks)
        client.refresh_optimizers(self.engine.method, self.moments)

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
                        users = self._users(network, index)
                        routed = [c for c in server.routed_to(which) if c in self.givers]
                        givers = [min(routed or users)]
                        if not server.is_per_cluster(network, index):
                            givers += [c for c in users if c not in givers]
                        blocks[index] = self._collect(holding, network, index, givers)
                copies.append(blocks)
            found[network] = copies
        return found

    def _users(self, network: str, index: int) -> list[int]:
        """Return the clients that leave a block to the server from now on, and can send it."""
        count = self.plan.num_blocks(network)
        users = [c for c in self.plan.clients if index in c.cuts.server_range(network, count)]
        return [c.client_id for c in users if c.client_id in self.givers]

    def _collect(self, holding: str, network: str, index: int, givers: list[int]) -> nn.Module:
        """Return the server's new block: a copy of the first giver's, or the mean of its users'."""
        made: dict[int, nn.Module] = {}
        for client_id in givers:
            given = getattr(self.engine.client(client_id), holding).blocks(network)[index]
            made[client_id] = self.send(Sending(holding, network, index, client_id, SERVER), given)
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

    def send(self, sending: Sending, given: nn.Module) -> nn.Module:
        """Send a block, and return the receiver's copy of it."""
        holding, network, index, sender, receiver = sending
        engine, processes = self.engine, self.engine.processes
        sent: State = {}
        if processes.holds(sender):
            party = engine.server if sender == SERVER else engine.client(sender)
            optimizer = party.optimizers.get(network) if holding == "trained" else None
            sent = read_block(given, optimizer)
        sent = processes.carry(sender, receiver, sent)
        topic = block_topic(network, holding)
        message = Message(sender, receiver, "moved_blocks", topic, sent)
        # It is counted once, where the client is.
        arrived = engine.wire.pass_on(message) if processes.holds(message.client_id) else sent
        self.made.append(
            Move(message.client_id, network, index, message.direction, message.num_bytes)
        )
        if processes.holds(receiver):
            return self.make(network, index, arrived, given)
        block = self._make_block(network, index, given)
        free_memory([*block.parameters(), *block.buffers()])
        return block

    def make(
        self, network: str, index: int, state: Mapping[str, Tensor], like: nn.Module
    ) -> nn.Module:
        """Return a block of a state; its moments wait for its holder's optimiser.

        Args:
            network: Which network.
            index: Of the block.
            state: What has arrived.
            like: A block on the same device, in the same mode, trained or not.
        """
        block = self._make_block(network, index, like)
        tensors, moments = split_moments(state)
        write_block(block, tensors)
        named = dict(block.named_parameters())
        for name, value in moments.items():
            key, _, owner = name.partition(".")[2].partition(".")
            self.moments.setdefault(named[owner], {})[key] = value.clone()
        return block

    def _make_block(self, network: str, index: int, like: nn.Module) -> nn.Module:
        """Return a block of its own, where another of its kind is and as that is trained."""
        block = copy.deepcopy(self.engine.networks[network][index]).to(_device_of(like))
        block.train(like.training)
        for own, theirs in zip(block.parameters(), like.parameters(), strict=True):
            own.requires_grad_(theirs.requires_grad)
        return block


def _device_of(block: nn.Module) -> torch.device:
    tensors = [*block.parameters(), *block.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
