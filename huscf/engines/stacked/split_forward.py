"""Clients' way through one cut network, side by side: heads, server, tails, and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models import Carry
from ...parties import as_leaf
from ...split import Crossing
from ...wire import Kind
from .gradient_sum import GradientSum

#: Runs one party's blocks for all clients of a stack.
Part = Callable[[Carry], Carry]

#: Carries tensors, (B, K, ...) each: kind, whether to the server, tensors.
Send = Callable[[Kind, bool, Carry], Carry]


@dataclass
class SplitForward:
    """A forward pass of K clients, kept for its backward pass.

    The graphs are separate: each party differentiates its own. All tensors are (B, K, ...).

    Args:
        client_ids: K clients, alike in cuts, batch size and server copy.
        crossing: What passes between them and the server.
        send: The wire.
        inputs: Leaves of the heads' graph, by name.
        head: What the heads wrote, in their graph.
        at_server: Leaves of the server's graph; empty where it has no block of theirs.
        middle: What the server wrote, in its graph.
        at_tail: Leaves of the tails' graph.
        outputs: What the tails wrote.
        server_parameters: Of the blocks that they use at the server.
    """

    client_ids: list[int]
    crossing: Crossing
    send: Send
    inputs: Carry
    head: Carry
    at_server: Carry
    middle: Carry
    at_tail: Carry
    outputs: Carry
    server_parameters: Sequence[nn.Parameter]

    @classmethod
    def run(
        cls,
        client_ids: list[int],
        crossing: Crossing,
        send: Send,
        inputs: Carry,
        parts: tuple[Part, Part, Part],
        server_parameters: Sequence[nn.Parameter],
    ) -> "SplitForward":
        """Run heads, server and tails."""
        run_head, run_middle, run_tail = parts
        head = run_head(inputs)
        up = {name: head[name].detach() for name in crossing.up}
        at_server, middle, down = {}, Carry(), Carry()
        if up:
            at_server = {n: as_leaf(t) for n, t in send("activations", True, up).items()}
            middle = run_middle(at_server)
            written = {name: middle[name].detach() for name in crossing.down}
            down = send("activations", False, written)
        home = {name: head[name] for name in crossing.home}
        at_tail = {name: as_leaf(tensor) for name, tensor in {**home, **down}.items()}
        outputs = run_tail(at_tail)
        return cls(
            client_ids,
            crossing,
            send,
            inputs,
            head,
            at_server,
            middle,
            at_tail,
            outputs,
            server_parameters,
        )

    def go_back(
        self,
        ends: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        collected: GradientSum | None,
        shares: Sequence[float],
        wanted: Sequence[str] = (),
        head_loss: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Go back from ends of the tails' graph.

        Args:
            ends: Losses, or outputs.
            gradients: At the ends; None where one is a loss.
            collected: Gets the gradients at the server's parameters, while those at the clients'
                are left with these; None where no parameter of the network is trained.
            shares: Of every client, the factor on what it adds to the server's gradients. Its
                own gradients are not scaled.
            wanted: Names of inputs whose gradients are returned.
            head_loss: A further end, in the heads' graph.
        """
        at_tail = _differentiate(ends, gradients, self.at_tail, collected is not None)
        at_heads = {name: at_tail[name] for name in self.crossing.home if name in at_tail}
        up = {name: at_tail[name] for name in self.crossing.down if name in at_tail}
        if up and self.at_server:
            arrived = self.send("gradients", True, up)
            for name, gradient in self._through_server(arrived, collected, shares).items():
                at_heads[name] = at_heads[name] + gradient if name in at_heads else gradient
        names = [n for n in at_heads if self.head[n].requires_grad]
        ends_of_heads = [self.head[name] for name in names]
        at_ends: list[Tensor | None] = [at_heads[name] for name in names]
        if head_loss is not None:
            ends_of_heads, at_ends = [*ends_of_heads, head_loss], [*at_ends, None]
        if not ends_of_heads:  # heads may have no parameters, or frozen ones
            return {}
        found = _differentiate(
            ends_of_heads,
            at_ends,
            {name: self.inputs[name] for name in wanted},
            collected is not None,
        )
        return found

    def _through_server(
        self, arrived: Carry, collected: GradientSum | None, shares: Sequence[float]
    ) -> Carry:
        names = [name for name, leaf in self.at_server.items() if leaf.requires_grad]
        inputs = [self.at_server[name] for name in names]
        outputs = [self.middle[name] for name in arrived]
        gradients = list(arrived.values())
        found: list[Tensor | None]
        if collected is None:
            found = list(torch.autograd.grad(outputs, inputs, gradients, allow_unused=True))
        elif all(share == shares[0] for share in shares):
            found = collected.accumulate_grads(
                outputs, gradients, inputs, self.server_parameters, factor=shares[0]
            )
        else:
            # The server's pass is linear in these gradients: scale them, unscale what comes back.
            scaled = [gradient * _factors(shares, gradient) for gradient in gradients]
            found = collected.accumulate_grads(outputs, scaled, inputs, self.server_parameters)
            found = [None if g is None else g / _factors(shares, g) for g in found]
        back = {n: g for n, g in zip(names, found, strict=True) if g is not None}
        return self.send("gradients", False, back) if back else {}


def _factors(shares: Sequence[float], like: Tensor) -> Tensor:
    factors = torch.tensor(shares, device=like.device, dtype=like.dtype)
    return factors.view(1, -1, *[1] * (like.ndim - 2))


def _differentiate(
    ends: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    leaves: Mapping[str, Tensor],
    trains: bool,
) -> dict[str, Tensor]:
    """Return gradients at leaves; where the blocks are trained, leave some at their parameters."""
    names = [name for name, leaf in leaves.items() if leaf.requires_grad]
    if trains:
        torch.autograd.backward(list(ends), list(gradients))
        found = {name: leaves[name].grad for name in names}
        for name in names:
            leaves[name].grad = None
        return {name: gradient for name, gradient in found.items() if gradient is not None}
    each = torch.autograd.grad(
        list(ends), [leaves[name] for name in names], list(gradients), allow_unused=True
    )
    return {
        name: gradient for name, gradient in zip(names, each, strict=True) if gradient is not None
    }
