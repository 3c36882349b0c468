"""What changes hands between parties, and of which kind it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

SERVER: Literal["server"] = "server"

#: A client by its number, or the server.
PartyId = int | Literal["server"]

#: What a message holds. A method declares which of them may cross in its runs.
#: inputs: what enters a network: noise, labels, real samples. outputs: what leaves it: synthetic
#: samples, logits. activations and gradients: at a cut. blocks: parameters and buffers that are
#: averaged. moved_blocks: those that change hands for good, with their optimiser state, and those
#: of a generator that a site may have a whole.
#: label_counts: how many samples of each class a client has. figures: other numbers that a client
#: computes from its data. norms: of single samples' gradients, and by what these are clipped.
#: statistics: sums over its activations, by which clients are compared.
Kind = Literal[
    "inputs",
    "outputs",
    "activations",
    "gradients",
    "blocks",
    "moved_blocks",
    "label_counts",
    "figures",
    "norms",
    "statistics",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

Direction = Literal["uplink", "downlink"]


@dataclass(frozen=True)
class Message:
    """Named tensors on their way from one party to another.

    Args:
        sender: Who sends.
        receiver: Who gets it.
        kind: What it holds.
        topic: Where: a cut such as "generator_head", or a network whose blocks these are.
        tensors: The content, detached from the sender's graph.
    """

    sender: PartyId
    receiver: PartyId
    kind: Kind
    topic: str
    tensors: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """Return the size of the content."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def direction(self) -> Direction:
        """Return "downlink" for what the server sends, else "uplink"."""
        return "downlink" if self.sender == SERVER else "uplink"

    @property
    def client_id(self) -> int:
        """Return the client at one end: the sender, or where that is the server the receiver."""
        party = self.receiver if self.sender == SERVER else self.sender
        assert isinstance(party, int)
        return party


class TensorSpec(NamedTuple):
    """What a tensor has to be.

    Args:
        dtype: Type of its elements.
        shape: Its sizes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def describe(value: Any) -> str:
    """Return shape and type of a tensor for a message to people, or a value's class."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {value.dtype}".replace("torch.", "")
