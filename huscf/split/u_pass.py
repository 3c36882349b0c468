"""Clients' way through one cut network: heads, server, tails, and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cuts import NetworkName
from .exchange import Exchange, cuts_of
from .gradient_sum import GradientSum

#: From what arrives of every lane at the server, (B, K, ...) each, to what it sends back.
ServerForward = Callable[[list[Tensor]], list[Tensor]]


@dataclass
class Lane:
    """Clients that compute side by side, being equal in cuts, batch size and server copy.

    Args:
        client_ids: K clients.
        head_output: (B, K, ...) in the clients' graph.
        server_input: (B, K, ...) at the server, a leaf.
        server_output: (B, K, ...) in the server's graph.
        tail_input: (B, K, ...) at the clients, a leaf.
        output: (B, K, ...) samples, or (B, K) logits, in the clients' graph.
    """

    client_ids: list[int]
    head_output: Tensor
    server_input: Tensor
    server_output: Tensor
    tail_input: Tensor
    output: Tensor


@dataclass
class UPass:
    """A forward pass through heads, server and tails, kept for its backward pass.

    The graphs are separate: each party differentiates its own.

    Args:
        exchange: The wire.
        network: Through which network.
        lanes: The participants.
        server_parameters: Of the blocks that they use at the server.
    """

    exchange: Exchange
    network: NetworkName
    lanes: list[Lane]
    server_parameters: Sequence[nn.Parameter]

    @classmethod
    def run(
        cls,
        exchange: Exchange,
        network: NetworkName,
        heads: Sequence[tuple[list[int], Tensor]],
        server: ServerForward,
        tail: Callable[[list[int], Tensor], Tensor],
        server_parameters: Sequence[nn.Parameter],
    ) -> "UPass":
        """Go forward.

        Args:
            exchange: The wire.
            network: Through which network.
            heads: Of every lane the clients and their head outputs, (B, K, ...).
            server: The middle, for all lanes.
            tail: The clients' tails, for one lane.
            server_parameters: Of the blocks that they use at the server.
        """
        head_cut, tail_cut = cuts_of(network)
        arrived = [
            _as_leaf(exchange.send(client_ids, head_cut, "activations", "uplink", output))
            for client_ids, output in heads
        ]
        lanes = []
        for (client_ids, head), at_server, middle in zip(
            heads, arrived, server(arrived), strict=True
        ):
            back = _as_leaf(exchange.send(client_ids, tail_cut, "activations", "downlink", middle))
            lanes.append(Lane(client_ids, head, at_server, middle, back, tail(client_ids, back)))
        return cls(exchange, network, lanes, server_parameters)

    @property
    def outputs(self) -> list[Tensor]:
        """Return every lane's output."""
        return [lane.output for lane in self.lanes]

    @property
    def output(self) -> Tensor:
        """Return the output, (B, ...), of a pass of one client."""
        (output,) = self.outputs
        return output.squeeze(1)

    def backward(
        self,
        ends: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        collected: GradientSum,
        shares: Sequence[Sequence[float]],
    ) -> None:
        """Go back from the outputs, leaving gradients at all parameters.

        Args:
            ends: Of every lane its output, or a loss that follows from it.
            gradients: Of every lane the gradient at its end; None where that is a loss.
            collected: Gets the gradients at the server's parameters.
            shares: By lane and client the factor on what it adds to the server's gradients, its
                share in the mean over clients. Its own gradients are not scaled.
        """
        for end, gradient in zip(ends, gradients, strict=True):
            torch.autograd.backward(end, gradient)
        at_tails = [lane.tail_input.grad for lane in self.lanes]
        at_heads = self._through_server(self._send_up(at_tails), collected, shares)
        for lane, gradient in zip(self.lanes, self._send_down(at_heads), strict=True):
            if lane.head_output.requires_grad:  # heads may have no parameters, or frozen ones
                torch.autograd.backward(lane.head_output, gradient)
        for lane in self.lanes:
            lane.tail_input.grad = None

    def differentiate(self, ends: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients at the inputs only; parameters get none.

        Args:
            ends: Of every lane a loss that follows from its output.
            inputs: Of every lane the leaf that its heads ran on.
        """
        at_tails = [
            torch.autograd.grad(end, lane.tail_input)[0]
            for lane, end in zip(self.lanes, ends, strict=True)
        ]
        outputs = [lane.server_output for lane in self.lanes]
        at_server = [lane.server_input for lane in self.lanes]
        at_heads = list(torch.autograd.grad(outputs, at_server, self._send_up(at_tails)))
        heads = zip(self.lanes, inputs, self._send_down(at_heads), strict=True)
        return [torch.autograd.grad(lane.head_output, leaf, g)[0] for lane, leaf, g in heads]

    def _through_server(
        self,
        at_tails: list[Tensor],
        collected: GradientSum,
        shares: Sequence[Sequence[float]],
    ) -> list[Tensor]:
        outputs = [lane.server_output for lane in self.lanes]
        inputs = [lane.server_input for lane in self.lanes]
        common = shares[0][0]
        if all(share == common for each in shares for share in each):
            return collected.differentiate(
                outputs, at_tails, inputs, self.server_parameters, factor=common
            )
        # The server's pass is linear in these gradients: scale them, unscale what comes back.
        factors = [
            torch.tensor(own, device=g.device, dtype=g.dtype).view(1, -1, *[1] * (g.ndim - 2))
            for own, g in zip(shares, at_tails, strict=True)
        ]
        scaled = [g * factor for g, factor in zip(at_tails, factors, strict=True)]
        found = collected.differentiate(outputs, scaled, inputs, self.server_parameters)
        return [g / factor for g, factor in zip(found, factors, strict=True)]

    def _send_up(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """Carry the gradients at the tails to the server."""
        _, tail_cut = cuts_of(self.network)
        arrived = []
        for lane, gradient in zip(self.lanes, gradients, strict=True):
            assert gradient is not None
            arrived.append(
                self.exchange.send(lane.client_ids, tail_cut, "gradients", "uplink", gradient)
            )
        return arrived

    def _send_down(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Carry the gradients at the heads' ends to the clients."""
        head_cut, _ = cuts_of(self.network)
        return [
            self.exchange.send(lane.client_ids, head_cut, "gradients", "downlink", gradient)
            for lane, gradient in zip(self.lanes, gradients, strict=True)
        ]


def _as_leaf(arrived: Tensor) -> Tensor:
    return arrived.detach().requires_grad_(torch.is_grad_enabled())
