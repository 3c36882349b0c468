"""Decodes a source's files once into a memory-mapped array on disk."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.lib.format import open_memmap
from torch import Tensor

from ..errors import DataError
from .bad_data import BadInput, BadSampleError, PassingError
from .paths import shorten_path
from .sources import Source, SourceFile

ReadSample = Callable[[SourceFile], Tensor]

#: Goes up where the same file is decoded otherwise than before.
_FORMAT = 4


class StoredSamples(NamedTuple):
    """What was decoded.

    Args:
        samples: (N, C, S, S) uint8, mapped from disk: only the rows in use are in memory.
        files: The N files, in the same order.
        bad: Files that could not be decoded.
    """

    samples: Tensor
    files: list[SourceFile]
    bad: list[BadInput]


def store_samples(
    source: Source, read: ReadSample, settings: Mapping[str, Any], cache_dir: Path
) -> StoredSamples:
    """Return the source's samples, decoding them only where no cache fits.

    The cache is kept per list of files (with their sizes and times) and settings, so changed
    files are decoded anew, as is a damaged cache, and all where a failure may pass (PassingError):
    that is not kept. Nothing in it is ever executed: an array and a JSON file.

    Args:
        source: Which files.
        read: Decodes one file to (C, S, S) uint8; raises BadSampleError for a bad one. Where grey
            and colour mix, all are stored in colour.
        settings: Everything the result of read depends on; plain values.
        cache_dir: Where the caches are kept.

    Raises:
        DataError: Where the cache cannot be written.
    """
    folder = cache_dir / _fingerprint(source, settings)
    if folder.is_dir():
        try:
            return _open(source, folder)
        except Exception as error:  # damaged files raise errors of many kinds
            message = f"the cache {folder} is damaged ({error!r}): its files are decoded anew"
            rank_zero_warn(message, stacklevel=5)
    try:
        is_final = _fill(source, read, folder)
        stored = _open(source, folder)
        if not is_final:
            shutil.rmtree(folder, ignore_errors=True)  # what is mapped lives on
        return stored
    except OSError as error:
        message = f"cannot write the cache {cache_dir}: {error}: set HUSCF_CACHE"
        raise DataError(message) from error


def _fingerprint(source: Source, settings: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([_FORMAT, settings], sort_keys=True).encode())
    for file in source.files:
        digest.update(f"{file.path.resolve()}:{file.frame}".encode("utf-8", "surrogateescape"))
        with suppress(OSError):  # a missing file, or one without rights
            status = file.path.stat()
            digest.update(f":{status.st_size}:{status.st_mtime_ns}\n".encode())
    return f"{source.name}-{digest.hexdigest()}".replace(os.sep, "_")


def _fill(source: Source, read: ReadSample, folder: Path) -> bool:
    """Decode beside the folder and put it there at once; return False where a failure may pass.

    Where the folder is there, its files are replaced one by one: all processes write the same
    ones, and the arrays that others have mapped live on.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        is_final = _decode(source, read, partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            for file in partial.iterdir():
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return is_final


def _decode(source: Source, read: ReadSample, folder: Path) -> bool:
    """Fill the array front to back; rows that bad files leave over stay unused at its end."""
    rows: list[int] = []
    bad: list[tuple[str, str]] = []
    is_final = True
    samples: np.memmap | None = None
    for position, file in enumerate(source.files):
        try:
            sample = read(file).numpy()
        except BadSampleError as error:
            bad.append((str(error), shorten_path(file.path, source.folder)))
            is_final = is_final and not isinstance(error, PassingError)
            continue
        if samples is None:
            samples = _make_array(folder / "samples.npy", len(source.files), sample.shape)
        elif samples.shape[1] == 1 and sample.shape[0] == 3:
            samples = _add_colour(folder, samples, len(rows))
        samples[len(rows)] = sample  # grey fills all planes
        rows.append(position)
    if samples is not None:
        samples.flush()
    (folder / "index.json").write_text(json.dumps({"rows": rows, "bad": bad}))
    return is_final


def _make_array(path: Path, count: int, shape: tuple[int, ...]) -> np.memmap:
    samples = open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *shape))
    _reserve_space(path)
    return samples


def _add_colour(folder: Path, grey: np.memmap, num_filled: int) -> np.memmap:
    """Return the array with three planes; the grey samples so far fill all of them."""
    colour = _make_array(folder / "colour.npy", len(grey), (3, *grey.shape[2:]))
    for row in range(num_filled):
        colour[row] = grey[row]
    (folder / "colour.npy").replace(folder / "samples.npy")
    return colour


def _reserve_space(path: Path) -> None:
    """Take a mapped file's space at once: on a full disk, writing into it ends the process."""
    if sys.platform == "linux":
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def _open(source: Source, folder: Path) -> StoredSamples:
    index = json.loads((folder / "index.json").read_text())
    files = [source.files[row] for row in index["rows"]]
    bad = [BadInput(*entry) for entry in index["bad"]]
    if not files:
        return StoredSamples(torch.empty(0, 1, 1, 1, dtype=torch.uint8), files, bad)
    # Copy on write: torch wants writable memory, the file never changes.
    samples = np.load(folder / "samples.npy", mmap_mode="c")
    if samples.dtype != np.uint8 or samples.ndim != 4 or len(samples) != len(source.files):
        raise ValueError(f"samples.npy holds {samples.dtype} {samples.shape}")
    return StoredSamples(torch.from_numpy(samples[: len(files)]), files, bad)
