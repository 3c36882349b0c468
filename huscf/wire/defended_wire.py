"""A wire that lets less be seen: clipping, noise and rounding of what crosses."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import HuscfError, check_count, check_number
from ..randomness import make_generator
from .message import Kind, Message, TensorSpec
from .traffic import TrafficKey
from .wire import MemoryWire

#: Kinds whose tensors have a row for every sample, and what else can be defended.
PER_SAMPLE = ("activations", "gradients")
DEFENDED = (*PER_SAMPLE, "blocks")

#: In place of bits of a number: as bfloat16, 16 bits with float32's range and no range beside it.
BF16: Literal["bf16"] = "bf16"
Bits = int | Literal["bf16"]

#: What is sent beside a row of rounded numbers: its smallest and its step, as float32.
_BYTES_PER_ROW = 8

#: How the name ends under which a network carries the ranges of a tensor's rows.
_SCALE = "@scale"

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
            spaced ones, and count so many bytes. bf16 casts them to bfloat16, which keeps 8 bits
            of precision at any size: half the bytes of float32.
    """

    def __init__(
        self,
        clip: dict[str, float] | None = None,
        noise: dict[str, float] | None = None,
        bits: dict[str, Bits] | None = None,
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
            if isinstance(count, str) and count != BF16:
                raise HuscfError(f"wire.bits of {kind} is {count!r:.20}, must be bf16 or 2 to 16")
            if count != BF16:
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

    def encode(self, message: Message) -> Mapping[str, Tensor]:
        """Return what a network carries: of numbers that are rounded, what is left of them."""
        bits = self.bits.get(message.kind)
        if not bits:
            return self.transmit(message)
        stream = self._stream(message)
        carried: dict[str, Tensor] = {}
        for name, tensor in message.tensors.items():
            if not _is_defended(tensor):
                carried[name] = tensor
                continue
            rows = self._take_rows(message, tensor, stream)
            if bits == BF16:
                carried[name] = rows.reshape(tensor.shape).bfloat16()
                continue
            low, step, levels = find_levels(rows, bits)
            carried[name] = pack_levels(levels, bits)
            carried[name + _SCALE] = torch.cat([low, step], 1)
        return carried

    def decode(
        self, kind: Kind, carried: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]
    ) -> dict[str, Tensor]:
        """Return the tensors that arrive, those that `transmit` gives."""
        bits, found = self.bits.get(kind), dict(carried)
        if bits is None:
            return found
        for name, spec in specs.items():
            if name not in found or not _is_defended(spec):
                continue
            if bits == BF16:
                found[name] = found[name].to(spec.dtype)
                continue
            if name + _SCALE not in found:
                raise HuscfError(f"tensor {name} has no range")
            low, step = found.pop(name + _SCALE).split(1, dim=1)
            size = math.prod(spec.shape) // len(low)
            rows = low + unpack_levels(found[name], bits, size).to(low) * step
            found[name] = rows.reshape(spec.shape).to(spec.dtype)
        return {name: tensor for name, tensor in found.items() if not name.endswith(_SCALE)}

    def describe_carried(
        self, kind: Kind, specs: Mapping[str, TensorSpec]
    ) -> Mapping[str, TensorSpec]:
        """Return names, types and shapes of what a network carries of such tensors."""
        bits = self.bits.get(kind)
        if not bits:
            return specs
        carried: dict[str, TensorSpec] = {}
        for name, spec in specs.items():
            carried[name] = spec
            if not _is_defended(spec):
                continue
            if bits == BF16:
                carried[name] = TensorSpec(torch.bfloat16, spec.shape)
                continue
            count = spec.shape[0] if kind in PER_SAMPLE else 1
            size = math.prod(spec.shape) // count
            carried[name] = TensorSpec(torch.uint8, (count, math.ceil(size * bits / 8)))
            carried[name + _SCALE] = TensorSpec(_dtype_of_rows(spec.dtype), (count, 2))
        return carried

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
            if bits == BF16:
                total += 2 * tensor.numel()
                continue
            count = _count_rows(message, tensor)
            total += count * (math.ceil(tensor.numel() // count * bits / 8) + _BYTES_PER_ROW)
        return total

    def _change(self, message: Message, tensor: Tensor, stream: torch.Generator) -> Tensor:
        rows = self._take_rows(message, tensor, stream)
        if bits := self.bits.get(message.kind):
            rows = rows.bfloat16() if bits == BF16 else round_rows(rows, bits)
        return rows.reshape(tensor.shape).to(tensor.dtype)

    def _take_rows(self, message: Message, tensor: Tensor, stream: torch.Generator) -> Tensor:
        """Return a tensor's rows (N, n), blurred where a client sends them."""
        count = _count_rows(message, tensor)
        rows = tensor.detach().to(_dtype_of_rows(tensor.dtype)).reshape(count, -1)
        return self._blur(message.kind, rows, stream) if message.direction == "uplink" else rows

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
    low, step, levels = find_levels(rows, bits)
    return low + levels * step


def find_levels(rows: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return every row's smallest number and step (N, 1), and the levels (N, n) above it."""
    low, high = rows.aminmax(dim=1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    return low, step, ((rows - low) / torch.where(step > 0, step, 1.0)).round()


def pack_levels(levels: Tensor, bits: int) -> Tensor:
    """Return levels (N, n) as bytes (N, ceil(n * bits / 8)), the lowest bits first.

    What is no number is 0: its row's range is none either.
    """
    whole = levels.nan_to_num(0.0, 0.0, 0.0).to(torch.int32).cpu().numpy()
    if bits == 8:
        return torch.from_numpy(whole.astype(np.uint8))
    planes = (whole[:, :, None] >> np.arange(bits)).astype(np.uint8) & 1
    packed = np.packbits(planes.reshape(len(whole), -1), axis=1, bitorder="little")
    return torch.from_numpy(packed)


def unpack_levels(packed: Tensor, bits: int, size: int) -> Tensor:
    """Return the levels (N, size) that `pack_levels` was given."""
    if bits == 8:
        return packed
    planes = np.unpackbits(packed.numpy(), axis=1, count=size * bits, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.int32)
    return torch.from_numpy(planes.reshape(len(planes), size, bits) @ weights)


def _is_defended(tensor: Tensor | TensorSpec) -> bool:
    """Return whether a tensor holds numbers of clients' data; single ones and integers count."""
    shape = tuple(tensor.shape)
    return tensor.dtype.is_floating_point and len(shape) > 0 and math.prod(shape) > 0


def _dtype_of_rows(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _count_rows(message: Message, tensor: Tensor) -> int:
    return len(tensor) if message.kind in PER_SAMPLE else 1


def _check_kinds(option: str, values: Mapping[str, object], allowed: Iterable[str]) -> None:
    known = tuple(allowed)
    for kind in values:
        if kind not in known:
            raise HuscfError(f"wire.{option}: there is no {kind} here; give {' or '.join(known)}")
