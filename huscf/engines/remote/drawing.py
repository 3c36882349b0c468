"""Drawing samples between a site and the server: noise and samples stay at the site."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ...methods import Forward
from ...models import DRAWN_AT_ONCE, Carry, evaluating, run_in_parts
from ...parties import ClientBlocks
from ...wire import SERVER, Message
from ...wire.frames import Frame, FrameError

if TYPE_CHECKING:
    from .engine import RemoteEngine
    from .site import Ask, SiteHalf


def forward_through(half: "SiteHalf", client_id: int, ask: "Ask") -> Forward:
    """Return what runs a client's networks for drawing, the server's blocks by asking for them.

    Args:
        half: The site's.
        client_id: Of a client of this site.
        ask: The way to the server.
    """

    def run(network: str, inputs: Carry) -> Carry:
        run_part = partial(_run_part, half, client_id, network, ask)
        return run_in_parts(run_part, inputs, DRAWN_AT_ONCE)

    return run


def _run_part(half: "SiteHalf", client_id: int, network: str, ask: "Ask", inputs: Carry) -> Carry:
    client, crossings = half.clients[client_id], half.crossings[client_id]
    blocks = client.average if network in half.method.averaged else client.trained
    assert isinstance(blocks, ClientBlocks)
    head, tail = blocks.segment(network, "head"), blocks.segment(network, "tail")
    crossing = crossings.crossings[network]
    count = len(next(iter(inputs.values())))
    with evaluating(head, tail):
        at_head = head(inputs, head.indices)
        arrived: Mapping[str, Tensor] = {}
        if up := {name: at_head[name] for name in crossing.up}:
            place = {"client": client_id, "network": network, "count": count}
            answer = ask("draw", place, up)
            arrived = answer.take_tensors(crossings.down(network, count))
        home = {name: at_head[name] for name in crossing.home}
        return tail({**home, **arrived}, tail.indices)


def answer_draw(engine: "RemoteEngine", frame: Frame) -> dict[str, Tensor]:
    """Run the server's blocks on what a site draws; it changes no state.

    Raises:
        FrameError: Where nobody was asked to draw, or what has come is no client's activations.
    """
    client_id, network, count = (frame.header[name] for name in ("client", "network", "count"))
    if not engine.is_drawing:
        raise FrameError("draw: nobody was asked to draw now")
    if network not in engine.networks or not 1 <= count <= DRAWN_AT_ONCE:
        raise FrameError(f"draw: {count} samples of network {network!r:.40}")
    crossings = engine.crossings[client_id]
    arrived = frame.take_tensors(crossings.up(network, count))
    _count(engine, client_id, network, arrived, is_up=True)
    server = engine.server
    blocks = server.average if network in engine.method.averaged else server.trained
    assert blocks is not None
    segment = blocks.segment(network, client_id)
    with engine.drawing, evaluating(segment):
        written = segment(arrived, server.server_range(network, client_id))
    down = {name: written[name] for name in crossings.crossings[network].down}
    _count(engine, client_id, network, down, is_up=False)
    return down


def _count(
    engine: "RemoteEngine", client_id: int, network: str, tensors: Mapping[str, Tensor], is_up: bool
) -> None:
    topic, kind = engine.crossings[client_id].name(network, "activations", is_up)
    sender, receiver = (client_id, SERVER) if is_up else (SERVER, client_id)
    message = Message(sender, receiver, kind, topic, tensors)
    engine.wire.check_kind(kind, topic)
    engine.wire.count(message, message.num_bytes)  # as it is, also where a wire changes steps
