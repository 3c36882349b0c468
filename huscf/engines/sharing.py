"""A round's samples of others' networks, over the wire: clients show theirs, and get samples."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models import Carry, Network, run_to_draw, to_uint8
from ..parties import read_block, write_block
from ..randomness import make_generator
from ..wire import SERVER, Message
from .mixing import block_topic

if TYPE_CHECKING:
    from .local import LocalEngine


def share_over_wire(
    engine: "LocalEngine", network: str, classes: Mapping[int, Sequence[int]], number: int
) -> None:
    """Let every client send a network, and get samples of the others', as the method weighs them.

    A client that says that it has no samples, or whose blocks are not finite, gives none; with
    fewer than two that do, nobody gets any.

    Args:
        engine: Whose clients these are.
        network: Which network they show the server.
        classes: Samples of each class that a client says it has, by client.
        number: Of the round, from 0.
    """
    diverged = engine.find_diverged()
    givers = [c for c in engine.plan.client_ids if c not in diverged and any(classes.get(c, ()))]
    if len(givers) < 2:
        return
    drawers = {c: _Drawer(engine, network, c, classes[c], number) for c in givers}
    compared = [drawers[c].draw(engine.method.num_compared, "compared") for c in givers]
    weights = engine.method.weigh_givers([samples for samples, _ in compared])
    for row, client_id in enumerate(givers):
        counts = divide_evenly(weights[row].tolist(), engine.method.num_shared)
        pairs = [
            drawers[giver].draw(count, "shared", client_id)
            for giver, count in zip(givers, counts, strict=True)
            if count
        ]
        samples, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
        sent = {"samples": to_uint8(samples), "labels": labels}
        arrived = engine.wire.pass_on(Message(SERVER, client_id, "outputs", "shared samples", sent))
        engine.client(client_id).shared = (arrived["samples"], arrived["labels"])


def divide_evenly(shares: Sequence[float], count: int) -> list[int]:
    """Return whole numbers that sum to count and are nearest to shares of it."""
    wanted = [share * count for share in shares]
    found = [int(each) for each in wanted]
    order = sorted(range(len(shares)), key=lambda place: (found[place] - wanted[place], place))
    for place in order[: count - sum(found)]:
        found[place] += 1
    return found


class _Drawer:
    """Draws from the network that a client has sent."""

    def __init__(
        self,
        engine: "LocalEngine",
        network: str,
        client_id: int,
        counts: Sequence[int],
        number: int,
    ) -> None:
        self.engine, self.network, self.client_id, self.number = engine, network, client_id, number
        self.classes = [label for label, count in enumerate(counts) if count]
        topic = block_topic(network, engine.sampling_holding(network))
        own = engine.sampling_network(network, client_id)
        self.copy = Network([copy.deepcopy(block) for block in own])
        for sent, block in zip(own, self.copy, strict=True):
            message = Message(client_id, SERVER, "blocks", topic, read_block(sent))
            write_block(block, engine.wire.pass_on(message))

    def draw(self, count: int, purpose: str, receiver: int = -1) -> tuple[Tensor, Tensor]:
        """Return so many samples, (n, C, H, W) in [-1, 1] on the CPU, and their labels, (n,).

        All classes that the client has are drawn equally often.
        """
        stream = make_generator(
            self.engine.seed, f"{purpose} samples", self.client_id, self.number, receiver + 1
        )
        order = torch.randperm(len(self.classes), generator=stream)
        labels = torch.tensor(self.classes)[order[torch.arange(count) % len(order)]]
        device = next(self.copy.parameters()).device

        def run(name: str, inputs: Carry) -> Carry:
            assert name == self.network
            return run_to_draw(self.copy, inputs, device)

        return self.engine.method.sample(run, labels, stream).float().cpu(), labels
