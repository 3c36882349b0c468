"""Frames: a header of plain values and raw tensors. Nothing that arrives is ever unpickled.

    4 bytes    length of the header, little endian
    header     a msgpack map; "tensors" lists [name, dtype, sizes, order] of what follows
    body       the tensors' bytes, one after the other; compressed as a whole where the header
               says "zstd"

`order` lists the dimensions from the largest stride to the smallest, and `sizes` are in that
order: the receiver's tensor has the sender's memory layout. Kernels depend on it, and so do the
last bits of what they compute.
"""

import importlib
import struct
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import msgpack
import numpy as np
import torch
from torch import Tensor

from ..errors import HuscfError
from .message import TensorSpec

#: The largest header, in bytes: a plan of some thousand clients.
MAX_HEADER = 1 << 20
MAX_DIMENSIONS = 8
#: How a body may be compressed.
Compression = Literal["zstd"]
#: Higher ones cost more time than they save on links from 4 Mbit/s on.
ZSTD_LEVEL = 1
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        *(torch.int64, torch.uint8),
    )
}


class FrameError(HuscfError):
    """A frame that is malformed, or none that is expected here."""


def pack(
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    compression: Compression | None = None,
) -> bytes:
    """Return a frame.

    Args:
        header: Plain values: text, numbers, lists, maps with names as keys.
        tensors: Any layout; strides of 0 are written out.
        compression: Of the tensors' bytes; None leaves them, as where it makes nothing smaller.
    """
    described, bodies = [], []
    for name, tensor in (tensors or {}).items():
        flat = tensor.detach().cpu()
        strides = flat.stride()
        order = sorted(range(flat.ndim), key=lambda d, s=strides: (-s[d], d))  # type: ignore[misc]
        flat = flat.permute(order).contiguous()
        dtype = str(flat.dtype).removeprefix("torch.")
        described.append([name, dtype, list(flat.shape), order])
        bodies.append(flat.reshape(-1).view(torch.uint8).numpy().data)
    fields: dict[str, Any] = {**header, "tensors": described}
    if compression is not None and bodies:
        whole = b"".join(bodies)
        if len(smaller := find_zstd().ZstdCompressor(ZSTD_LEVEL).compress(whole)) < len(whole):
            fields["zstd"], bodies = True, [memoryview(smaller)]
    head = msgpack.packb(fields)
    return b"".join((struct.pack("<I", len(head)), head, *bodies))


def find_zstd() -> ModuleType:
    """Return the package that compresses.

    Raises:
        HuscfError: Where it is not installed.
    """
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise HuscfError(
            "sites.compression needs zstandard, of the extra deploy: pip install 'huscf[deploy]'"
        ) from error


class Frame:
    """A frame that has arrived; its tensors are made only once they are known to fit.

    Args:
        data: The frame.

    Attributes:
        header: Its plain values, without the list of tensors.
        num_bytes: Its size.

    Raises:
        FrameError: Where it is malformed: a length, type or size does not fit the others.
    """

    def __init__(self, data: bytes) -> None:
        self.num_bytes = len(data)
        self.header, start = _read_header(data)
        described = self.header.pop("tensors", None)
        if not isinstance(described, list):
            raise FrameError("its header lists no tensors")
        self._found: dict[str, tuple[TensorSpec, list[int]]] = {}
        for entry in described:
            name, spec, order = _read_description(entry)
            if name in self._found:
                raise FrameError(f"tensor {name!r:.40} repeats")
            self._found[name] = spec, order
        self._body = memoryview(data)[start:]
        self._is_compressed = self.header.pop("zstd", False) is True
        surplus = len(self._body) - self._content_size
        if surplus and not self._is_compressed:
            raise FrameError("it is cut off" if surplus < 0 else f"{surplus} bytes too many")

    @property
    def names(self) -> list[str]:
        """Return the names of its tensors."""
        return list(self._found)

    def take_tensors(
        self, expected: Mapping[str, TensorSpec], optional: bool = False
    ) -> dict[str, Tensor]:
        """Return the tensors, each with the memory layout that it had at the sender.

        Args:
            expected: What has to be there, by name.
            optional: Whether some of them may be missing.

        Raises:
            FrameError: Where another tensor is there, one is missing, or does not fit.
        """
        missing = [] if optional else [name for name in expected if name not in self._found]
        if missing:
            raise FrameError(f"tensor {missing[0]} is missing")
        for name, (spec, order) in self._found.items():
            if name not in expected:
                raise FrameError(f"tensor {name!r:.40} is not expected")
            shape = tuple(spec.shape[order.index(d)] for d in range(len(order)))
            if (spec.dtype, shape) != expected[name]:
                wanted = expected[name]
                raise FrameError(
                    f"tensor {name} is {list(shape)} {spec.dtype}, expected "
                    f"{list(wanted.shape)} {wanted.dtype}".replace("torch.", "")
                )
        content, made = self._unpack(), {}
        for name, (spec, order) in self._found.items():
            size = spec.num_bytes
            made[name] = _make_tensor(spec, order, content[:size])
            content = content[size:]
        return made

    @property
    def _content_size(self) -> int:
        return sum(spec.num_bytes for spec, _ in self._found.values())

    def _unpack(self) -> memoryview:
        """Return the tensors' bytes, which are known to be no more than are expected."""
        if not self._is_compressed:
            return self._body
        zstd = find_zstd()
        try:
            if zstd.frame_content_size(self._body) != self._content_size:
                raise FrameError("its compressed content is of another size")
            content = zstd.ZstdDecompressor().decompress(self._body)
        except zstd.ZstdError as error:
            raise FrameError("its compressed content is damaged") from error
        if len(content) != self._content_size:
            raise FrameError("its compressed content is of another size")
        return memoryview(content)


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header, and where the body begins."""
    if len(data) < 4:
        raise FrameError("it has no length")
    (size,) = struct.unpack_from("<I", data)
    if size > MAX_HEADER or 4 + size > len(data):
        raise FrameError("its header is too long or cut off")
    try:
        header = msgpack.unpackb(
            memoryview(data)[4 : 4 + size], raw=False, strict_map_key=True, max_ext_len=0
        )
    # Of text that is no UTF-8, and of all that msgpack refuses.
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FrameError(f"its header is no msgpack ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise FrameError("its header is no map")
    return header, 4 + size


def _read_description(entry: object) -> tuple[str, TensorSpec, list[int]]:
    """Return a tensor's name, its type and sizes in memory order, and that order."""
    if not isinstance(entry, list) or len(entry) != 4:
        raise FrameError("a tensor is not described by name, type, sizes and order")
    name, dtype, sizes, order = entry
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise FrameError(f"a tensor of type {dtype!r:.40}")
    if not isinstance(sizes, list) or not isinstance(order, list) or len(sizes) > MAX_DIMENSIONS:
        raise FrameError(f"tensor {name!r:.40} has no sizes")
    if not all(type(size) is int and 0 <= size < 1 << 40 for size in sizes):
        raise FrameError(f"tensor {name!r:.40} has sizes that are no sizes")
    if not all(type(d) is int for d in order) or sorted(order) != list(range(len(sizes))):
        raise FrameError(f"tensor {name!r:.40} has dimensions in no order")
    return name, TensorSpec(DTYPES[dtype], tuple(sizes)), order


def _make_tensor(spec: TensorSpec, order: list[int], body: memoryview) -> Tensor:
    raw = torch.empty(len(body), dtype=torch.uint8)
    raw.numpy()[:] = np.frombuffer(body, np.uint8)
    dims = [order.index(d) for d in range(len(order))]
    return raw.view(spec.dtype).view(spec.shape).permute(dims)
