"""The algorithm: one client after the other; every tensor that crosses a cut is a message.

This is the reference that every other engine equals. A step, for every phase of the method:

    1. Each client runs its head on its own inputs and sends the activations to the server.
    2. The server runs the blocks that the client left to it, and sends the activations back.
    3. The client runs its tail and computes the loss, from its own labels.
    4. Gradients go back the same way: tail, server, head. A client's blocks get the gradient of
       its own mean loss, the server's blocks the mean over clients.
    5. All parties step the networks that the phase trains.

In a pass whose inputs the server draws (`Pass.drawn`), 1 and its way back fall away.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..methods import Pass, Phase
from ..models import Carry
from ..parties import Client
from ..wire import SERVER, Kind, Message, PartyId
from .base import Batches, StepResult
from .crossing import name_crossing
from .local import LocalEngine

Gradients = dict[nn.Parameter, Tensor]


class SerialEngine(LocalEngine):
    """Runs a step as the figure of the U shows it."""

    def run_step(self, batches: Batches, step: int) -> StepResult:
        """Run all phases of a step for the clients that have a batch."""
        active = self.load_batches(batches, step)
        dropped: list[int] = []
        losses = {}
        for phase in self.method.phases(step):
            losses[phase.name] = self._run_phase(phase, active, dropped)
            active = [client_id for client_id in active if client_id not in dropped]
        self.update_averages(step, active)
        self.commit_step(batches)
        return StepResult(losses, tuple(dropped))

    def _run_phase(self, phase: Phase, active: list[int], dropped: list[int]) -> float:
        """Run a phase for every client, then step; return the mean loss."""
        losses: dict[int, float] = {}
        gradients: dict[int, Gradients] = {}
        for client_id in active:
            try:
                with self._undo_if_broken(client_id):
                    losses[client_id], gradients[client_id] = self.run_client(phase, client_id)
            except NonFiniteError:
                if self.on_nonfinite == "stop":
                    raise
                dropped.append(client_id)
                self.num_dropped[client_id] += 1
        shares = self.server_shares(losses)
        sum_gradients(shares, gradients)
        self.finish_gradients(phase, shares)
        for network in phase.trains:
            self.server.check_gradients(network)
            for party in self.all_parties().values():
                party.step(network)
        torch.clear_autocast_cache()  # weights that it has cast are no longer what they were
        return sum(losses.values()) / len(losses) if losses else float("nan")

    def finish_gradients(self, phase: Phase, shares: Mapping[int, float]) -> None:
        """Change the parties' gradients before they step; engines that do so override.

        Args:
            phase: The phase.
            shares: Every participant's share in the server's gradient.
        """

    def run_client(self, phase: Phase, client_id: int) -> tuple[float, Gradients]:
        """Run all passes of a phase for one client: forward, loss, and back.

        Returns:
            The client's loss, and its gradients at the server's parameters.
        """
        at_server: Gradients = {}

        def go_back(item: Pass) -> None:
            for parameter, gradient in self._go_back(phase, item, client_id).items():
                at_server[parameter] = at_server.get(parameter, 0.0) + gradient

        client = self.client(client_id)
        loss = run_passes(client, phase, lambda item: self._run_forward(item, client_id), go_back)
        return loss, at_server

    def _run_forward(self, item: Pass, client_id: int) -> None:
        """Head, server, tail."""
        client = self.client(client_id)
        if item.drawn:
            at_server = item.read_inputs(self.server.drawn[client_id], {})
        else:
            at_server = self._send(client_id, SERVER, "activations", item, client.run_head(item))
        if at_server:
            written = self.server.run_middle(item, client_id, at_server)
            down = {name: written[name] for name in client.crossings[item.network].down}
            client.run_tail(item, self._send(SERVER, client_id, "activations", item, down))
        else:
            client.run_tail(item, {})

    def _go_back(self, phase: Phase, item: Pass, client_id: int) -> Gradients:
        """Tail, server, head; return the gradients at the server's parameters."""
        client = self.client(client_id)
        at_tail = client.go_back_tail(item, phase)
        at_head: Mapping[str, Tensor] = {}
        found: Gradients = {}
        if at_tail:
            arrived = self._send(client_id, SERVER, "gradients", item, at_tail)
            back, found = self.server.go_back_middle(item, phase, client_id, arrived)
            if not item.drawn:
                at_head = self._send(SERVER, client_id, "gradients", item, back)
        if not item.drawn:
            client.go_back_head(item, phase, at_head)
        return found

    def _send(
        self, sender: PartyId, receiver: PartyId, kind: Kind, item: Pass, tensors: Carry
    ) -> Carry:
        """Pass what crosses a cut; the server looks at what it is sent before it uses it."""
        if not tensors:
            return {}
        is_up = receiver == SERVER
        topic, kind = name_crossing(self, item.network, kind, is_up, sender if is_up else receiver)
        arrived = dict(self.wire.pass_on(Message(sender, receiver, kind, topic, tensors)))
        if is_up:
            for tensor in arrived.values():
                self.server.guard.check(kind, topic, [sender], tensor.unsqueeze(1), item.name)  # type: ignore[list-item]
        return arrived

    @contextmanager
    def _undo_if_broken(self, client_id: int) -> Iterator[None]:
        """Leave no trace of a client that is dropped: no gradient, no running statistics."""
        buffers = [*self.client(client_id).buffers(), *self.server.buffers()]
        before = [buffer.clone() for buffer in buffers]
        try:
            yield
        except NonFiniteError:
            for buffer, old in zip(buffers, before, strict=True):
                buffer.data.copy_(old)  # graphs of others hold it, and need not know
            self.client(client_id).zero_grad(set_to_none=True)
            self.client(client_id).forget_learned()
            self.server.statistics.drop(client_id)
            self.server.guard.drop(client_id)
            raise


def sum_gradients(shares: Mapping[int, float], gradients: Mapping[int, Gradients]) -> None:
    """Leave at the server's parameters what each client's gradients come to, by its share."""
    for client_id, share in shares.items():
        for parameter, gradient in gradients[client_id].items():
            known = 0.0 if parameter.grad is None else parameter.grad
            parameter.grad = known + share * gradient


def run_passes(
    client: Client,
    phase: Phase,
    run_forward: Callable[[Pass], None],
    go_back: Callable[[Pass], None],
) -> float:
    """Run the passes of a phase for one client, wherever the server is; return its loss."""
    loss = 0.0
    for direction, item in phase.steps():
        if direction == "backward":
            go_back(item)
            continue
        if item.name not in client.outputs:
            run_forward(item)
        client.learn(item, client.outputs[item.name])
        if item.loss is not None:
            loss += client.measure_loss(item, phase)
    return loss
