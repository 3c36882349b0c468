"""The wire between clients and server: the one place where a step's tensors change hands."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import HuscfError, NonFiniteError
from .cuts import NetworkName

Direction = Literal["uplink", "downlink"]
Kind = Literal["activations", "gradients"]
Cut = Literal["generator_head", "generator_tail", "discriminator_head", "discriminator_tail"]


@dataclass(frozen=True)
class Parcel:
    """One tensor on its way between a client and the server.

    Args:
        client_id: The client at one end of the wire; the server is at the other.
        cut: Which of the client's four cuts it crosses.
        kind: Activations or gradients.
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

    Subclass it and override `transmit` to add noise, compression or a network; what it returns
    has the shape and type of what was sent. What a federation
    averages does not pass here: its bytes are counted, and that is all.

    Args:
        check_finite: Refuse NaN and Inf in what a client sends, before the server uses it.
    """

    def __init__(self, check_finite: bool = True) -> None:
        self.check_finite = check_finite
        self.num_bytes: Counter[tuple[int, Cut, Direction]] = Counter()

    @property
    def is_plain(self) -> bool:
        """Whether everything arrives as it was sent and counts as large as it is."""
        names = ("transmit", "measure", "send", "count")
        return all(getattr(type(self), name) is getattr(Exchange, name) for name in names)

    def transmit(self, parcel: Parcel) -> Tensor:
        """Return the content as it arrives at the other end (here: unchanged).

        Of the same shape and type: compress and expand again.
        """
        return parcel.content

    def measure(self, parcel: Parcel) -> int:
        """Return the bytes that a parcel takes; override it where `transmit` compresses."""
        return parcel.num_bytes

    def send(
        self,
        client_ids: Sequence[int],
        cut: Cut,
        kind: Kind,
        direction: Direction,
        tensors: Tensor,
    ) -> Tensor:
        """Carry what K clients send or receive over one cut, each its own tensor.

        Args:
            client_ids: The clients at one end.
            cut: Which cut is crossed.
            kind: What the tensors are.
            direction: Who sends.
            tensors: (B, K, ...), those of client k at [:, k]; the receiver gets no reference to
                the sender's graph.

        Returns:
            (B, K, ...), detached. Activations are to become a leaf of the receiver's graph.

        Raises:
            NonFiniteError: Naming the first client that sends NaN or Inf.
            HuscfError: Where what `transmit` returns has another shape or type.
        """
        content = tensors.detach()
        if self.check_finite and direction == "uplink" and not is_finite(content):
            each = zip(client_ids, content.unbind(1), strict=True)
            broken = next(client_id for client_id, own in each if not is_finite(own))
            raise NonFiniteError(broken, f"{kind} at {cut} hold NaN or Inf")
        if self.is_plain:
            num_bytes = content.numel() * content.element_size() // len(client_ids)
            for client_id in client_ids:
                self.count(client_id, cut, direction, num_bytes)
            return content
        arrived = []
        for client_id, own in zip(client_ids, content.unbind(1), strict=True):
            parcel = Parcel(client_id, cut, kind, direction, own)
            self.count(client_id, cut, direction, self.measure(parcel))
            arrived.append(self._check(parcel, self.transmit(parcel)))
        return torch.stack(arrived, 1)

    def count(self, client_id: int, cut: Cut, direction: Direction, num_bytes: int) -> None:
        """Count bytes: of what is sent, and of what a federation moves in bulk."""
        self.num_bytes[client_id, cut, direction] += num_bytes

    def _check(self, parcel: Parcel, arrived: Any) -> Tensor:
        sent, got = _name_kind(parcel.content), _name_kind(arrived)
        if sent != got:
            raise HuscfError(
                f"{type(self).__name__}.transmit: needs to return what it is given at "
                f"{parcel.cut}, {sent}, got {got}"
            )
        return arrived

    def total_bytes(self, client_id: int | None = None, direction: Direction | None = None) -> int:
        """Sum the bytes so far, of one client or direction or of all (None)."""
        return sum(
            count
            for (client, _, way), count in self.num_bytes.items()
            if client_id in (None, client) and direction in (None, way)
        )


def _name_kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {value.dtype}".replace("torch.", "")


def is_finite(tensor: Tensor) -> bool:
    """Return whether no element is NaN or Inf; one pass and no mask of the tensor's size."""
    # A finite sum proves it; an overflowing sum of finite numbers needs the exact look.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
