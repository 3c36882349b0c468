"""A group of clients' way through one cut network: heads, server, tails, and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import NonFiniteError
from .cuts import NetworkName
from .exchange import Exchange, cuts_of

Forward = Callable[[Tensor], Tensor]

#: Elements from which on laying a feature map out anew pays (docs/performance.md).
LARGE_MAP = 2**16


@dataclass
class UPass:
    """A forward pass through heads, server and tails, kept for its backward pass.

    The graphs are separate: each party differentiates its own. The server runs its clients side
    by side in one graph; everything crosses the wire client by client.

    Args:
        exchange: The wire.
        network: Through which network.
        head_outputs: By client, (B, ...) in the client's graph.
        server_input: (B, K, ...) at the server, a leaf; clients in the order of head_outputs.
        server_output: (B, K, ...) in the server's graph.
        tail_inputs: By client, (B, ...) at the client, a leaf.
        outputs: By client, samples or logits, in the client's graph.
        failures: Clients that sent a gradient with NaN or Inf; it counted as zero.
    """

    exchange: Exchange
    network: NetworkName
    head_outputs: dict[int, Tensor]
    server_input: Tensor
    server_output: Tensor
    tail_inputs: dict[int, Tensor]
    outputs: dict[int, Tensor]
    failures: list[NonFiniteError] = field(default_factory=list)

    @classmethod
    def run(
        cls,
        exchange: Exchange,
        network: NetworkName,
        head_outputs: dict[int, Tensor],
        server: Forward,
        tails: Mapping[int, Forward],
    ) -> "UPass":
        """Go forward.

        Args:
            exchange: The wire.
            network: Through which network.
            head_outputs: By client, (B, ...) in the client's graph, all of one shape.
            server: From (B, K, ...) to (B, K, ...).
            tails: By client.
        """
        head_cut, tail_cut = cuts_of(network)
        arrived = [
            exchange.send(client_id, head_cut, "activations", "uplink", output).detach()
            for client_id, output in head_outputs.items()
        ]
        server_input = _side_by_side(arrived).requires_grad_(torch.is_grad_enabled())
        server_output = server(server_input)
        tail_inputs = {
            client_id: exchange.send(client_id, tail_cut, "activations", "downlink", own)
            for client_id, own in zip(head_outputs, server_output.unbind(1), strict=True)
        }
        outputs = {client_id: tails[client_id](own) for client_id, own in tail_inputs.items()}
        return cls(
            exchange, network, head_outputs, server_input, server_output, tail_inputs, outputs
        )

    @property
    def output(self) -> Tensor:
        """Return the output of a pass of one client."""
        (output,) = self.outputs.values()
        return output

    def backward(
        self,
        gradients: Mapping[int, Tensor | None],
        inputs: Mapping[int, Tensor] | None = None,
        frozen: bool = False,
        shares: Mapping[int, float] | None = None,
    ) -> dict[int, Tensor]:
        """Go back from the outputs, leaving gradients at the parameters that train.

        Args:
            gradients: By client, the gradient at its output; None where that is a loss.
            inputs: By client, the leaf that the head ran on, where its gradient is wanted.
            frozen: Leave no gradients at parameters; only the inputs' is computed.
            shares: By client, the factor on what it adds to the server's parameter gradients,
                its share in the mean over clients; None is 1. Its own are not scaled.

        Returns:
            The gradients at inputs, by client; empty without inputs.
        """
        at_head = self._through_server(self._through_tails(gradients, frozen), shares, frozen)
        head_cut, _ = cuts_of(self.network)
        found = {}
        for client_id, gradient in zip(self.head_outputs, at_head.unbind(1), strict=True):
            arrived = self.exchange.send(client_id, head_cut, "gradients", "downlink", gradient)
            leaf = None if inputs is None else inputs[client_id]
            at_input = _differentiate(self.head_outputs[client_id], arrived, leaf, frozen)
            if at_input is not None:
                found[client_id] = at_input
        return found

    def _through_tails(self, gradients: Mapping[int, Tensor | None], frozen: bool) -> list[Tensor]:
        _, tail_cut = cuts_of(self.network)
        arrived = []
        for client_id, leaf in self.tail_inputs.items():
            gradient = _differentiate(self.outputs[client_id], gradients[client_id], leaf, frozen)
            assert gradient is not None
            try:
                gradient = self.exchange.send(client_id, tail_cut, "gradients", "uplink", gradient)
            except NonFiniteError as error:
                self.failures.append(error)
                gradient = torch.zeros_like(gradient)
            arrived.append(gradient)
        return arrived

    def _through_server(
        self, at_tail: list[Tensor], shares: Mapping[int, float] | None, frozen: bool
    ) -> Tensor:
        # The server's pass is linear in these gradients: scale them, unscale what comes back.
        scales = None
        if shares is not None and not frozen:
            scales = torch.tensor([shares[c] for c in self.head_outputs], device=at_tail[0].device)
            at_tail = [g * share for g, share in zip(at_tail, scales, strict=True)]
        gradient = _side_by_side(at_tail)
        at_head = _differentiate(self.server_output, gradient, self.server_input, frozen)
        assert at_head is not None
        if scales is not None:
            at_head = at_head / scales.to(at_head).view(1, -1, *[1] * (at_head.ndim - 2))
        return at_head


def _side_by_side(tensors: list[Tensor]) -> Tensor:
    """Return (B, K, ...) from K tensors (B, ...).

    Large feature maps of a single client get channels last, which convolutions prefer.
    """
    if len(tensors) > 1:
        return torch.stack(tensors, 1)
    (single,) = tensors
    if single.ndim == 4 and single.numel() >= LARGE_MAP:
        single = single.contiguous(memory_format=torch.channels_last)
    return single.unsqueeze(1)


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
