"""The wire between clients and server: the one place where tensors change hands."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import NonFiniteError
from .cuts import NetworkName

Direction = Literal["uplink", "downlink"]
Kind = Literal["activations", "gradients", "params"]
Cut = Literal["generator_head", "generator_tail", "discriminator_head", "discriminator_tail"]


@dataclass(frozen=True)
class Parcel:
    """One tensor on its way between a client and the server.

    Args:
        client_id: The client at one end of the wire; the server is at the other.
        cut: Which of the client's four cuts it crosses.
        kind: Activations or gradients in a step, params in a federation.
        direction: "uplink" is client to server.
        content: The tensor, detached from the sender's graph.
    """

    client_id: int
    cut: Cut
    kind: Kind
    direction: Direction
    content: Tensor

    @property
    def num_bytes(self) -> int:
        """Return the size of the content."""
        return self.content.numel() * self.content.element_size()


def cuts_of(network: NetworkName) -> tuple[Cut, Cut]:
    """Return the names of a network's head cut and tail cut."""
    if network == "generator":
        return "generator_head", "generator_tail"
    return "discriminator_head", "discriminator_tail"


class Exchange:
    """Carries activations forward and gradients back across the cuts, and counts bytes.

    Subclass it and override `transmit` to add noise, compression or a network.

    Args:
        check_finite: Refuse NaN and Inf in what a client sends, before the server uses it.
    """

    def __init__(self, check_finite: bool = True) -> None:
        self.check_finite = check_finite
        self.num_bytes: Counter[tuple[int, Cut, Direction]] = Counter()

    def transmit(self, parcel: Parcel) -> Tensor:
        """Return the content as it arrives at the other end (here: unchanged)."""
        return parcel.content

    def send(
        self, client_id: int, cut: Cut, kind: Kind, direction: Direction, tensor: Tensor
    ) -> Tensor:
        """Carry one tensor over.

        Activations arrive as a new leaf of the receiver's graph, so that the receiver's
        backward pass leaves there the gradient to send back.

        Args:
            client_id: The client at one end.
            cut: Which cut is crossed.
            kind: What the tensor is.
            direction: Who sends.
            tensor: Any shape; the receiver gets no reference to the sender's graph.

        Raises:
            NonFiniteError: Naming the client, where it sends NaN or Inf.
        """
        content = tensor.detach()
        if self.check_finite and direction == "uplink" and not is_finite(content):
            raise NonFiniteError(client_id, f"{kind} at {cut} hold NaN or Inf")
        parcel = Parcel(client_id, cut, kind, direction, content)
        self.num_bytes[client_id, cut, direction] += parcel.num_bytes
        arrived = self.transmit(parcel)
        if kind == "activations" and torch.is_grad_enabled():
            return arrived.detach().requires_grad_()
        return arrived

    def count(self, client_id: int, cut: Cut, direction: Direction, num_bytes: int) -> None:
        """Count bytes that are moved in bulk, such as a federation's parameters."""
        self.num_bytes[client_id, cut, direction] += num_bytes

    def total_bytes(self, client_id: int | None = None, direction: Direction | None = None) -> int:
        """Sum the bytes so far, of one client or direction or of all (None)."""
        return sum(
            count
            for (client, _, way), count in self.num_bytes.items()
            if client_id in (None, client) and direction in (None, way)
        )


def is_finite(tensor: Tensor) -> bool:
    """Return whether no element is NaN or Inf; one pass and no mask of the tensor's size."""
    # A finite sum proves it; an overflowing sum of finite numbers needs the exact look.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
