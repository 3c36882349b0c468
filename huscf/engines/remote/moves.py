"""Blocks that move between server and sites: as in one process, on copies of what sites send."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from ...parties import read_block, write_block
from ...split import ClientPlan, CutPlan
from ...wire import SERVER, MemoryWire
from ..base import Move
from ..local import LocalEngine
from ..moving import Moves, Sending, move_over_wire
from ..processes import State
from .block_frames import BlockRef, Wanted, fetch_block
from .mirror import StandIn

if TYPE_CHECKING:
    from .engine import RemoteEngine
    from .site import Ask, SiteHalf


def list_given(engine: "RemoteEngine", plan: CutPlan, givers: Sequence[int]) -> list[BlockRef]:
    """Return the blocks that clients have to send for a new plan.

    Args:
        engine: The server's.
        plan: New cuts.
        givers: Clients whose sites are there.
    """
    listing = _Listing(cast(LocalEngine, _make_stand_in(engine)), plan, givers)
    for name in engine.server.holding_names:
        listing.to_server(name)
    return list(dict.fromkeys(listing.refs))


def move_at_server(
    engine: "RemoteEngine", plan: CutPlan, givers: Sequence[int], given: Mapping[BlockRef, State]
) -> tuple[tuple[Move, ...], dict[BlockRef, State]]:
    """Let the server hold what a new plan says.

    Args:
        engine: The server's.
        plan: New cuts.
        givers: Clients whose sites are there.
        given: What these have sent.

    Returns:
        What changes hands, and what clients are to be sent.
    """
    stand_in = _make_stand_in(engine)
    for client in stand_in.clients.values():
        client.make_optimizers(engine.method)
    for ref, state in given.items():
        write_block(stand_in.block(ref), state, stand_in.optimizer(ref))
    local = cast(LocalEngine, stand_in)
    sending = _Sending(local, plan, givers)
    moves = move_over_wire(local, plan, sending)
    return moves, sending.sent


def move_at_site(half: "SiteHalf", entries: Sequence[ClientPlan], ask: "Ask") -> None:
    """Let clients hold what their new cuts say; blocks that they lack are fetched first."""
    plan = CutPlan(half.plan.blocks, tuple(entries))
    moves = _Fetching(half, plan, ask)
    held = {
        (name, entry.client_id): moves.to_client(name, entry.client_id)
        for entry in entries
        for name in half.client(entry.client_id).holding_names
    }
    for (name, client_id), blocks in held.items():
        moves.let_go(name, client_id, blocks)
    for entry in entries:
        moves.settle(entry.client_id)


class _Listing(Moves):
    """Notes which blocks clients send, and moves nothing."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.refs: list[BlockRef] = []

    def send(self, sending: Sending, given: nn.Module) -> nn.Module:
        assert sending.sender != SERVER
        self.refs.append(BlockRef(sending.sender, *sending[:3]))
        return copy.deepcopy(given)


class _Sending(Moves):
    """Keeps what the server sends."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: dict[BlockRef, State] = {}

    def send(self, sending: Sending, given: nn.Module) -> nn.Module:
        if sending.receiver != SERVER:
            optimizer = self.engine.server.optimizers.get(sending.network)
            state = read_block(given, optimizer if sending.holding == "trained" else None)
            ref = BlockRef(sending.receiver, *sending[:3])
            self.sent[ref] = {name: tensor.clone() for name, tensor in state.items()}
        return super().send(sending, given)


class _Fetching(Moves):
    """Asks the server for what a client lacks."""

    def __init__(self, half: "SiteHalf", plan: CutPlan, ask: "Ask") -> None:
        super().__init__(cast(LocalEngine, half), plan)
        self.ask = ask

    def bring(self, holding: str, network: str, index: int, client_id: int) -> nn.Module:
        ref = BlockRef(client_id, holding, network, index)
        is_trained = holding == "trained"
        whole = self.engine.networks[network]
        state = fetch_block(Wanted(ref, whole, is_trained, MemoryWire()), self.ask)
        like = copy.deepcopy(whole[index]).train()
        return self.make(network, index, state, like if is_trained else like.requires_grad_(False))


def _make_stand_in(engine: "RemoteEngine") -> StandIn:
    return StandIn(engine, engine.plan.client_ids)
