"""What processes tell each other: plain values and tensors, and what has gone wrong at one."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import HuscfError
from ...spill import as_bytes, make_dense

#: Whoever waits for another may have to wait for an evaluation; lost processes show at once.
PATIENCE = timedelta(days=1)

#: A value that JSON knows, and tensors that go along, on the CPU.
Parcel = tuple[Any, list[Tensor]]


class LostProcessError(HuscfError):
    """Another process of the run has ended, or cannot be reached any more."""


class Ranks:
    """This process among those of a run; every process calls the same methods in the same order.

    It has a group of its own, so that Lightning's collectives, as on SIGTERM, do not mix with ours.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    @classmethod
    def join(cls) -> "Ranks":
        """Return this process among those of torch.distributed."""
        return cls(dist.get_rank(), dist.get_world_size())

    def gather(
        self, value: Any, tensors: Sequence[Tensor] = (), error: BaseException | None = None
    ) -> list[Parcel]:
        """Return what every process gives, in their order; its own as it is.

        Args:
            value: What JSON knows; keys of mappings are text.
            tensors: Of any shapes and types.
            error: What has gone wrong in this process; given up by all, then.

        Raises:
            HuscfError: The first process's error, in every process. A process's own error is
                raised as it is.
        """
        message = None if error is None else _describe(error, self.rank)
        own = _pack([value, message], tensors)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._call(dist.all_gather, sizes, torch.tensor([len(own)]))
        longest = int(max(sizes))
        if len(own) < longest:
            own = torch.cat([own, own.new_zeros(longest - len(own))])
        every = [own.new_empty(longest) for _ in range(self.size)]
        self._call(dist.all_gather, every, own)
        found = [
            ([value, message], list(tensors)) if rank == self.rank else _unpack(each)
            for rank, each in enumerate(every)
        ]
        for rank, ((_, message), _) in enumerate(found):
            if message is not None:
                raise error if error is not None and rank == self.rank else HuscfError(message)
        return [(given, sent) for (given, _), sent in found]

    def broadcast(self, source: int, parcel: Parcel | None) -> Parcel:
        """Return what one process gives.

        Args:
            source: Which.
            parcel: What it gives; others give None.
        """
        packed = torch.empty(0, dtype=torch.uint8) if parcel is None else _pack(*parcel)
        size = torch.tensor([len(packed)])
        self._call(dist.broadcast, size, source)
        if parcel is None:
            packed = torch.empty(int(size), dtype=torch.uint8)
        self._call(dist.broadcast, packed, source)
        return _unpack(packed) if parcel is None else parcel

    def carry(self, source: int, target: int, parcel: Parcel | None) -> Parcel | None:
        """Return in one process what another gives; in that one its own, and None elsewhere.

        Args:
            source: Who gives.
            target: Who gets it.
            parcel: What is given; others give None.
        """
        if self.rank == source and source != target:
            assert parcel is not None
            packed = _pack(*parcel)
            self._call(dist.send, torch.tensor([len(packed)]), target)
            self._call(dist.send, packed, target)
        elif self.rank == target and source != target:
            size = torch.zeros(1, dtype=torch.int64)
            self._call(dist.recv, size, source)
            packed = torch.empty(int(size), dtype=torch.uint8)
            self._call(dist.recv, packed, source)
            return _unpack(packed)
        return parcel

    def _call(self, collective: Any, *arguments: Any) -> None:
        try:
            collective(*arguments, group=self._group)
        except RuntimeError as error:
            raise LostProcessError(
                f"another of the run's {self.size} processes has ended or cannot be reached; if "
                "it was not stopped, its own message or the system's log (out of memory?) says why"
            ) from error


def _describe(error: BaseException, rank: int) -> str:
    if isinstance(error, HuscfError):
        return str(error)
    return f"process {rank}: {type(error).__name__}: {error}"


def _pack(value: Any, tensors: Sequence[Tensor]) -> Tensor:
    """Return bytes: the header's length, the header, and the tensors one after the other."""
    given = [make_dense(tensor.detach().cpu()) for tensor in tensors]
    kinds = [[list(t.shape), list(t.stride()), str(t.dtype).removeprefix("torch.")] for t in given]
    text = json.dumps([value, kinds]).encode()
    head = len(text).to_bytes(8, "little") + text
    flat = [as_bytes(tensor) for tensor in given if tensor.numel()]
    return torch.cat([torch.frombuffer(bytearray(head), dtype=torch.uint8), *flat])


def _unpack(packed: Tensor) -> Parcel:
    start = 8 + int.from_bytes(packed[:8].numpy().tobytes(), "little")
    value, kinds = json.loads(packed[8:start].numpy().tobytes())
    tensors = []
    for shape, strides, name in kinds:
        made = torch.empty_strided(shape, strides, dtype=getattr(torch, name))
        stop = start + made.nbytes
        if made.numel():
            as_bytes(made).copy_(packed[start:stop])
        tensors.append(made)
        start = stop
    return value, tensors
