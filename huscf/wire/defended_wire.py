"""A wire that lets less be seen: clipping, noise and rounding of what crosses."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import HuscfError, check_count, check_number
from ..randomness import make_generator
from .message import Message
from .traffic import TrafficKey
from .wire import MemoryWire

#: Kinds whose tensors have a row for every sample, and what else can be defended.
PER_SAMPLE = ("activations", "gradients")
DEFENDED = (*PER_SAMPLE, "blocks")

#: What is sent beside a row of rounded numbers: its smallest and its step, as float32.
_BYTES_PER_ROW = 8

#: Where no number of a block's tensor is negative, as in variances, none gets smaller than this
#: part of its size by noise.
_LEAST_PART = 0.01


class DefendedWire(MemoryWire):
    """Clips, blurs and rounds what crosses; see docs/privacy.md for what that hides and costs.

    Clients clip and blur what they send before it leaves them; what the server sends is only
    rounded. Nothing of it is a guarantee of differential privacy. Blocks that change hands for
    good (`moved_blocks`) cross as they are. Noise depends on the run's seed, the client and the
    place, and on what the client has sent there before, so that a resumed run draws the same.

    Args:
        clip: By kind (activations, gradients), the largest root mean square of one sample's
            numbers, > 0; larger ones are scaled down to it.
        noise: By kind (activations, gradients, blocks), standard deviation of Gaussian noise, >= 0:
            in units of that kind's clip where it has one, so that the noise tells nothing of the
            sample; else of the sample's own root mean square, or for blocks that of the tensor.
        bits: By kind (activations, gradients, blocks), bits of a number, 2 to 16, in both
            directions: each sample's numbers, or for blocks each tensor's, are rounded to evenly
            spaced ones, and count so many bytes.
    """

    def __init__(
        self,
        clip: dict[str, float] | None = None,
        noise: dict[str, float] | None = None,
        bits: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.clip, self.noise, self.bits = dict(clip or {}), dict(noise or {}), dict(bits or {})
        _check_kinds("clip", self.clip, PER_SAMPLE)
        _check_kinds("noise", self.noise, DEFENDED)
        _check_kinds("bits", self.bits, DEFENDED)
        for kind, bound in self.clip.items():
            check_number(f"wire.clip of {kind}", bound, 0, is_open=True)
        for kind, strength in self.noise.items():
            check_number(f"wire.noise of {kind}", strength)
        for kind, count in self.bits.items():
            check_count(f"wire.bits of {kind}", count, 2, 16)

    def transmit(self, message: Message) -> Mapping[str, Tensor]:
        """Return the tensors as they arrive."""
        is_sent_by_client = message.direction == "uplink"
        knobs = [self.bits] + ([self.clip, self.noise] if is_sent_by_client else [])
        if not any(message.kind in knob for knob in knobs):
            return message.tensors
        stream = self._stream(message)
        return {
            name: self._change(message, tensor, stream) if _is_defended(tensor) else tensor
            for name, tensor in message.tensors.items()
        }

    def prepare(self, message: Message) -> Mapping[str, Tensor]:
        """Return a block clipped, blurred and rounded: once it is masked, nobody can do that."""
        return self.transmit(message)

    def measure(self, message: Message) -> int:
        """Return the bytes that a message takes."""
        bits = self.bits.get(message.kind)
        if bits is None:
            return message.num_bytes
        total = 0
        for tensor in message.tensors.values():
            if not _is_defended(tensor):
                total += tensor.nbytes
                continue
            count = _count_rows(message, tensor)
            total += count * (math.ceil(tensor.numel() // count * bits / 8) + _BYTES_PER_ROW)
        return total

    def _change(self, message: Message, tensor: Tensor, stream: torch.Generator) -> Tensor:
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        rows = tensor.detach().to(dtype).reshape(_count_rows(message, tensor), -1)
        if message.direction == "uplink":
            rows = self._blur(message.kind, rows, stream)
        if bits := self.bits.get(message.kind):
            rows = round_rows(rows, bits)
        return rows.reshape(tensor.shape).to(tensor.dtype)

    def _blur(self, kind: str, rows: Tensor, stream: torch.Generator) -> Tensor:
        """Clip rows to their largest size, and add noise."""
        sizes = rows.square().mean(1, keepdim=True).sqrt()
        bound = self.clip.get(kind)
        if bound is not None:
            rows = rows * (bound / sizes.clamp(min=bound))
            sizes = torch.full_like(sizes, bound)
        if not (strength := self.noise.get(kind)):
            return rows
        drawn = torch.randn(rows.shape, generator=stream).to(rows)
        blurred = rows + strength * sizes * drawn
        if kind == "blocks" and bool((rows >= 0).all()):
            blurred = blurred.maximum(_LEAST_PART * sizes)
        return blurred

    def _stream(self, message: Message) -> torch.Generator:
        """Return the stream of a message's noise; the bytes before it tell it from others."""
        key = TrafficKey(message.client_id, message.kind, message.topic, message.direction)
        purpose = f"wire {message.kind} {message.topic} {message.direction}"
        before = self.traffic.num_bytes[key]
        return make_generator(self.run_seed, purpose, message.client_id, before)


def round_rows(rows: Tensor, bits: int) -> Tensor:
    """Round every row's numbers to 2 ** bits evenly spaced ones from its smallest to its largest.

    Args:
        rows: (N, n) floating point, finite.
        bits: 2 to 16.
    """
    low, high = rows.aminmax(dim=1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    levels = ((rows - low) / torch.where(step > 0, step, 1.0)).round()
    return low + levels * step


def _is_defended(tensor: Tensor) -> bool:
    """Return whether a tensor holds numbers of clients' data; single ones and integers count."""
    return tensor.is_floating_point() and tensor.ndim > 0 and tensor.numel() > 0


def _count_rows(message: Message, tensor: Tensor) -> int:
    return len(tensor) if message.kind in PER_SAMPLE else 1


def _check_kinds(option: str, values: Mapping[str, object], allowed: Iterable[str]) -> None:
    known = tuple(allowed)
    for kind in values:
        if kind not in known:
            raise HuscfError(f"wire.{option}: there is no {kind} here; give {' or '.join(known)}")
