"""Ways to round the numbers of a tensor for its way, and what a network carries of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import HuscfError, check_count
from .message import TensorSpec

#: In place of bits of a number: as bfloat16, 16 bits with float32's range and no range beside it.
BF16: Literal["bf16"] = "bf16"
Bits = int | Literal["bf16"]

#: How the name ends under which a network carries the ranges of a tensor's rows.
RANGES = "@scale"

#: What is sent beside a row of levels: its smallest number and its step, as float32.
_BYTES_PER_ROW = 8


class Rounding(ABC):
    """One of these ways. Tensors come as rows (N, n), one of every sample or one of all.

    Attributes:
        ends: How the names of what is carried of a tensor end.
    """

    ends: tuple[str, ...] = ("",)

    @abstractmethod
    def round(self, rows: Tensor) -> Tensor:
        """Return rows as they arrive."""

    @abstractmethod
    def encode(self, rows: Tensor, shape: torch.Size) -> dict[str, Tensor]:
        """Return what is carried of a tensor of a shape, by how its name ends."""

    @abstractmethod
    def decode(self, carried: Mapping[str, Tensor], spec: TensorSpec) -> Tensor:
        """Return the tensor that arrives, as `round` gives it; all of `ends` is there."""

    @abstractmethod
    def describe(self, spec: TensorSpec, num_rows: int) -> dict[str, TensorSpec]:
        """Return types and shapes of what is carried of a tensor, by how its name ends."""

    @abstractmethod
    def count_bytes(self, num_rows: int, row_size: int) -> int:
        """Return the bytes that rows take."""


class Levels(Rounding):
    """Every row's numbers as 2 ** bits evenly spaced ones, from its smallest to its largest.

    Args:
        bits: 2 to 16.
    """

    ends = ("", RANGES)

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def round(self, rows: Tensor) -> Tensor:
        """Return rows of levels."""
        low, step, levels = self._find(rows)
        return low + levels * step

    def encode(self, rows: Tensor, shape: torch.Size) -> dict[str, Tensor]:
        """Return levels as bytes, and the rows' ranges."""
        low, step, levels = self._find(rows)
        return {"": self._pack(levels), RANGES: torch.cat([low, step], 1)}

    def decode(self, carried: Mapping[str, Tensor], spec: TensorSpec) -> Tensor:
        """Return numbers of levels and ranges."""
        low, step = carried[RANGES].split(1, dim=1)
        size = math.prod(spec.shape) // len(low)
        rows = low + self._unpack(carried[""], size).to(low) * step
        return rows.reshape(spec.shape).to(spec.dtype)

    def describe(self, spec: TensorSpec, num_rows: int) -> dict[str, TensorSpec]:
        """Return bytes of levels, and ranges."""
        size = math.prod(spec.shape) // num_rows
        packed = TensorSpec(torch.uint8, (num_rows, math.ceil(size * self.bits / 8)))
        return {"": packed, RANGES: TensorSpec(dtype_of_rows(spec.dtype), (num_rows, 2))}

    def count_bytes(self, num_rows: int, row_size: int) -> int:
        """Return the bytes of levels and ranges."""
        return num_rows * (math.ceil(row_size * self.bits / 8) + _BYTES_PER_ROW)

    def _find(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return every row's smallest number and step (N, 1), and the levels (N, n) above it."""
        low, high = rows.aminmax(dim=1, keepdim=True)
        step = (high - low) / (2**self.bits - 1)
        return low, step, ((rows - low) / torch.where(step > 0, step, 1.0)).round()

    def _pack(self, levels: Tensor) -> Tensor:
        """Return levels (N, n) as bytes (N, ceil(n * bits / 8)), the lowest bits first.

        What is no number is 0: its row's range is none either.
        """
        whole = levels.nan_to_num(0.0, 0.0, 0.0).to(torch.int32).cpu().numpy()
        if self.bits == 8:
            return torch.from_numpy(whole.astype(np.uint8))
        planes = (whole[:, :, None] >> np.arange(self.bits)).astype(np.uint8) & 1
        packed = np.packbits(planes.reshape(len(whole), -1), axis=1, bitorder="little")
        return torch.from_numpy(packed)

    def _unpack(self, packed: Tensor, size: int) -> Tensor:
        """Return the levels (N, size) that `_pack` was given."""
        if self.bits == 8:
            return packed
        count = size * self.bits
        planes = np.unpackbits(packed.numpy(), axis=1, count=count, bitorder="little")
        weights = (1 << np.arange(self.bits)).astype(np.int32)
        return torch.from_numpy(planes.reshape(len(planes), size, self.bits) @ weights)


class Bfloat16(Rounding):
    """Numbers cast to bfloat16."""

    def round(self, rows: Tensor) -> Tensor:
        """Return rows in bfloat16."""
        return rows.bfloat16()

    def encode(self, rows: Tensor, shape: torch.Size) -> dict[str, Tensor]:
        """Return the tensor in bfloat16."""
        return {"": rows.reshape(shape).bfloat16()}

    def decode(self, carried: Mapping[str, Tensor], spec: TensorSpec) -> Tensor:
        """Return it in its own type."""
        return carried[""].to(spec.dtype)

    def describe(self, spec: TensorSpec, num_rows: int) -> dict[str, TensorSpec]:
        """Return the same shape in bfloat16."""
        return {"": TensorSpec(torch.bfloat16, spec.shape)}

    def count_bytes(self, num_rows: int, row_size: int) -> int:
        """Return two bytes a number."""
        return 2 * num_rows * row_size


def make_rounding(kind: str, bits: Bits) -> Rounding:
    """Return the way that an option names for a kind of message.

    Raises:
        HuscfError: Where it names none.
    """
    if bits == BF16:
        return Bfloat16()
    if isinstance(bits, str):
        raise HuscfError(f"wire.bits of {kind} is {bits!r:.20}, must be bf16 or 2 to 16")
    check_count(f"wire.bits of {kind}", bits, 2, 16)
    return Levels(bits)


def dtype_of_rows(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which the numbers of a tensor are worked on."""
    return torch.promote_types(dtype, torch.float32)
