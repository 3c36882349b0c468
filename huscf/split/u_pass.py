"""One client's way through one cut network: out over the head, through the server, and back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .cuts import NetworkName
from .exchange import Exchange, cuts_of

Forward = Callable[[Tensor], Tensor]


@dataclass
class UPass:
    """A forward pass through head, server and tail, kept for its backward pass.

    The three graphs are separate: each party differentiates its own.

    Args:
        exchange: The wire.
        client_id: Whose pass.
        network: Through which network.
        head_output: (B, ...) in the client's graph.
        server_input: The same at the server, a leaf.
        server_output: (B, ...) in the server's graph.
        tail_input: The same at the client, a leaf.
        output: Samples or logits, in the client's graph.
    """

    exchange: Exchange
    client_id: int
    network: NetworkName
    head_output: Tensor
    server_input: Tensor
    server_output: Tensor
    tail_input: Tensor
    output: Tensor

    @classmethod
    def run(
        cls,
        exchange: Exchange,
        client_id: int,
        network: NetworkName,
        segments: tuple[Tensor, Forward, Forward],
    ) -> "UPass":
        """Go forward.

        Args:
            exchange: The wire.
            client_id: Whose pass.
            network: Through which network.
            segments: The head's output, and the forward functions of server and tail.
        """
        head_output, server, tail = segments
        head_cut, tail_cut = cuts_of(network)
        server_input = exchange.send(client_id, head_cut, "activations", "uplink", head_output)
        server_output = server(server_input)
        tail_input = exchange.send(client_id, tail_cut, "activations", "downlink", server_output)
        output = tail(tail_input)
        return cls(
            exchange,
            client_id,
            network,
            head_output,
            server_input,
            server_output,
            tail_input,
            output,
        )

    def backward(
        self,
        gradient: Tensor | None,
        inputs: Tensor | None = None,
        frozen: bool = False,
        server_scale: float = 1.0,
    ) -> Tensor | None:
        """Go back from the output, leaving gradients at the parameters that train.

        Args:
            gradient: Gradient at the output; None where the output is a loss.
            inputs: Leaf that the head ran on, where its gradient is wanted.
            frozen: Leave no gradients at parameters; only the inputs' is computed.
            server_scale: Factor on the server's parameter gradients, the client's share in the
                mean over clients. The client's own gradients are not scaled.

        Returns:
            The gradient at inputs, or None.
        """
        head_cut, tail_cut = cuts_of(self.network)
        wire, client = self.exchange, self.client_id
        at_tail = _differentiate(self.output, gradient, self.tail_input, frozen)
        assert at_tail is not None
        # The server's pass is linear in this gradient: scale it here, unscale what comes back.
        at_tail = wire.send(client, tail_cut, "gradients", "uplink", at_tail)
        if server_scale != 1.0:
            at_tail = at_tail * server_scale
        at_head = _differentiate(self.server_output, at_tail, self.server_input, frozen)
        assert at_head is not None
        if server_scale != 1.0:
            at_head = at_head / server_scale
        at_head = wire.send(client, head_cut, "gradients", "downlink", at_head)
        return _differentiate(self.head_output, at_head, inputs, frozen)


def _differentiate(
    output: Tensor, gradient: Tensor | None, leaf: Tensor | None, frozen: bool
) -> Tensor | None:
    """Return the gradient at the leaf; unless frozen, also leave the parameters'."""
    if frozen:
        if leaf is None:
            return None
        return torch.autograd.grad(output, leaf, gradient)[0]
    torch.autograd.backward(output, gradient)
    return None if leaf is None else leaf.grad
