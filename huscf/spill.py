"""Tensors that are put by in a file, so that those that are only written on need no memory."""

import hashlib
import mmap
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

#: Bytes after whose writing the memory of what was read for it is let go.
PORTION = 64 * 2**20

#: Tensors begin in the file at multiples of it.
_ALIGNMENT = 64

_maps: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()


class _Kind(NamedTuple):
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    digest: bytes


class Spill:
    """Takes tensors one after the other into a file without a name, and then shows all of them.

    The file lies in the folder for temporary files (TMPDIR) and goes when the tensors have gone.
    Equal tensors share a place in it.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="huscf-")  # noqa: SIM115 (what is mapped stays)
        self._added: list[_Kind] = []
        self._starts: dict[_Kind, int] = {}

    def add(self, tensor: Tensor) -> None:
        """Put a tensor of the CPU by, with its memory layout."""
        dense = make_dense(tensor.detach())
        content = as_bytes(dense).numpy().data
        digest = hashlib.blake2b(content, digest_size=16).digest()
        kind = _Kind(dense.shape, dense.stride(), dense.dtype, digest)
        if kind not in self._starts:
            start = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
            with _naming_folder():
                self._file.seek(start)
                self._file.write(content or b"\0")  # no two tensors begin at one place
            self._starts[kind] = start
        self._added.append(kind)

    def show(self) -> list[Tensor]:
        """Return all tensors in the order in which they were added; to be called once."""
        with _naming_folder():
            self._file.write(bytes(_ALIGNMENT))  # even one without elements shows one
            self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._file.close()
        _maps.add(mapped)
        shown = {}
        for kind, start in self._starts.items():
            count = max(1, kind.shape.numel())
            flat = torch.frombuffer(mapped, dtype=kind.dtype, count=count, offset=start)
            shown[kind] = flat.as_strided(kind.shape, kind.strides)
        return [shown[kind] for kind in self._added]


class SparingFile:
    """A file that is written; what was read of spilled tensors for it is let go on the way.

    Args:
        file: Open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._written = file, 0

    def write(self, content: Any) -> int:
        """Write on."""
        count = self._file.write(content)
        self._written += count
        if self._written > PORTION:
            self._written = 0
            _let_go()
        return count

    def flush(self) -> None:
        """Hand on what is buffered; torch.save calls it at the end."""
        self._file.flush()


def make_dense(tensor: Tensor) -> Tensor:
    """Return a tensor without gaps, with the memory layout that it had if it had none."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor if tensor.permute(order).is_contiguous() else tensor.contiguous()


def as_bytes(tensor: Tensor) -> Tensor:
    """Return a dense tensor's memory, (number of bytes,) uint8."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


@contextmanager
def _naming_folder() -> Iterator[None]:
    """Let an error of the file without a name tell where the room is lacking."""
    try:
        yield
    except OSError as error:
        error.filename = f"{tempfile.gettempdir()} (TMPDIR, for temporary files)"
        raise


def _let_go() -> None:
    """Drop the pages of mapped files from this process's memory; they can be read again."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapped in list(_maps):
            mapped.madvise(mmap.MADV_DONTNEED)
