"""A wire that lets less be seen: clipping, noise and rounding of what crosses."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import HuscfError, check_number
from ..randomness import draw_hiding, make_wide_rng
from .message import Kind, Message, TensorSpec
from .roundings import RANGES, Bits, dtype_of_rows, make_rounding
from .traffic import TrafficKey
from .wire import MemoryWire

#: Kinds whose tensors have a row for every sample, and what else can be defended.
PER_SAMPLE = ("activations", "gradients")
DEFENDED = (*PER_SAMPLE, "blocks")

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
        self._roundings = {kind: make_rounding(kind, bits) for kind, bits in self.bits.items()}

    def transmit(self, message: Message) -> Mapping[str, Tensor]:
        """Return the tensors as they arrive."""
        is_sent_by_client = message.direction == "uplink"
        knobs = [self.bits] + ([self.clip, self.noise] if is_sent_by_client else [])
        if not any(message.kind in knob for knob in knobs):
            return message.tensors
        rng = self._make_rng(message)
        return {
            name: self._change(message, tensor, rng) if _is_defended(tensor) else tensor
            for name, tensor in message.tensors.items()
        }

    def encode(self, message: Message) -> Mapping[str, Tensor]:
        """Return what a network carries: of numbers that are rounded, what is left of them."""
        rounding = self._roundings.get(message.kind)
        if rounding is None:
            return self.transmit(message)
        rng = self._make_rng(message)
        carried: dict[str, Tensor] = {}
        for name, tensor in message.tensors.items():
            if not _is_defended(tensor):
                carried[name] = tensor
                continue
            rows = self._take_rows(message, tensor, rng)
            carried |= {name + end: t for end, t in rounding.encode(rows, tensor.shape).items()}
        return carried

    def decode(
        self, kind: Kind, carried: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]
    ) -> dict[str, Tensor]:
        """Return the tensors that arrive, those that `transmit` gives."""
        rounding, found = self._roundings.get(kind), dict(carried)
        if rounding is None:
            return found
        for name, spec in specs.items():
            if name not in found or not _is_defended(spec):
                continue
            if not all(name + end in found for end in rounding.ends):
                raise HuscfError(f"tensor {name} has no range")
            found[name] = rounding.decode({end: found[name + end] for end in rounding.ends}, spec)
        return {name: tensor for name, tensor in found.items() if not name.endswith(RANGES)}

    def describe_carried(
        self, kind: Kind, specs: Mapping[str, TensorSpec]
    ) -> Mapping[str, TensorSpec]:
        """Return names, types and shapes of what a network carries of such tensors."""
        rounding = self._roundings.get(kind)
        if rounding is None:
            return specs
        carried: dict[str, TensorSpec] = {}
        for name, spec in specs.items():
            if not _is_defended(spec):
                carried[name] = spec
                continue
            described = rounding.describe(spec, _count_rows(kind, spec))
            carried |= {name + end: each for end, each in described.items()}
        return carried

    def prepare(self, message: Message) -> Mapping[str, Tensor]:
        """Return a block clipped, blurred and rounded: once it is masked, nobody can do that."""
        return self.transmit(message)

    def measure(self, message: Message) -> int:
        """Return the bytes that a message takes."""
        rounding = self._roundings.get(message.kind)
        if rounding is None:
            return message.num_bytes
        total = 0
        for tensor in message.tensors.values():
            if _is_defended(tensor):
                count = _count_rows(message.kind, tensor)
                total += rounding.count_bytes(count, tensor.numel() // count)
            else:
                total += tensor.nbytes
        return total

    def _change(self, message: Message, tensor: Tensor, rng: np.random.Generator) -> Tensor:
        rows = self._take_rows(message, tensor, rng)
        if rounding := self._roundings.get(message.kind):
            rows = rounding.round(rows)
        return rows.reshape(tensor.shape).to(tensor.dtype)

    def _take_rows(self, message: Message, tensor: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a tensor's rows (N, n), blurred where a client sends them."""
        count = _count_rows(message.kind, tensor)
        rows = tensor.detach().to(dtype_of_rows(tensor.dtype)).reshape(count, -1)
        return self._blur(message.kind, rows, rng) if message.direction == "uplink" else rows

    def _blur(self, kind: str, rows: Tensor, rng: np.random.Generator) -> Tensor:
        """Clip rows to their largest size, and add noise."""
        sizes = rows.square().mean(1, keepdim=True).sqrt()
        bound = self.clip.get(kind)
        if bound is not None:
            rows = rows * (bound / sizes.clamp(min=bound))
            sizes = torch.full_like(sizes, bound)
        if not (strength := self.noise.get(kind)):
            return rows
        drawn = draw_hiding(rng, rows)
        blurred = rows + strength * sizes * drawn
        if kind == "blocks" and bool((rows >= 0).all()):
            blurred = blurred.maximum(_LEAST_PART * sizes)
        return blurred

    def _make_rng(self, message: Message) -> np.random.Generator:
        """Return what draws a message's noise; the bytes before it tell it from others."""
        key = TrafficKey(message.client_id, message.kind, message.topic, message.direction)
        purpose = f"wire {message.kind} {message.topic} {message.direction}"
        before = self.traffic.num_bytes[key]
        return make_wide_rng(self.run_seed, purpose, message.client_id, before)


def _is_defended(tensor: Tensor | TensorSpec) -> bool:
    """Return whether a tensor holds numbers of clients' data; single ones and integers count."""
    shape = tuple(tensor.shape)
    return tensor.dtype.is_floating_point and len(shape) > 0 and math.prod(shape) > 0


def _count_rows(kind: str, tensor: Tensor | TensorSpec) -> int:
    return tensor.shape[0] if kind in PER_SAMPLE else 1


def _check_kinds(option: str, values: Mapping[str, object], allowed: Iterable[str]) -> None:
    known = tuple(allowed)
    for kind in values:
        if kind not in known:
            raise HuscfError(f"wire.{option}: there is no {kind} here; give {' or '.join(known)}")
