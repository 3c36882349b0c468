"""Checkpoints that are written whole or not at all, and read as data only."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .checkpoint_parts import check_parts
from .errors import CheckpointError, check_complete
from .spill import SparingFile
from .training import check_format
from .whole_files import replacing


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and then replaces it; never unpickles code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint so that an interruption leaves the previous file intact."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            write_tensors(checkpoint, partial)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; see `read_checkpoint`."""
        return read_checkpoint(path)


def write_tensors(values: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values to a new file, down to the disk.

    Raises:
        OSError: Where the disk is full, which torch says as a RuntimeError about a position.
    """
    try:
        with path.open("xb") as file:
            torch.save(values, cast(IO[bytes], SparingFile(file)))
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values, on the CPU.

    Raises:
        CheckpointError: Naming the file, where it is missing, damaged or not a checkpoint.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint {file}: no such file")
    try:
        _check_archive(file)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        others = sorted(str(o) for o in file.parent.glob("*.ckpt") if o.name != file.name)
        remedy = f"; other checkpoints there: {', '.join(others)}" if others else ""
        is_pickle = isinstance(error, pickle.UnpicklingError)
        # torch's own words for it advise to run what the file holds.
        reason = (
            "it holds other objects than tensors and plain values, which may be harmful"
            if is_pickle
            else str(error).splitlines()[0]
        )
        raise CheckpointError(
            f"checkpoint {file}: damaged or not a checkpoint of huscf ({reason}){remedy}"
        ) from error
    if not isinstance(checkpoint, dict) or "huscf" not in checkpoint:
        raise CheckpointError(f"checkpoint {file}: not a checkpoint of huscf")
    check_complete(checkpoint, ["state_dict"])
    check_parts(checkpoint, file)
    check_format(checkpoint["huscf"], f"checkpoint {file}")
    return checkpoint


def _check_archive(file: Path) -> None:
    """Raise a BadZipFile where a part does not have its checksum, which torch.load never asks."""
    if not zipfile.is_zipfile(file):
        raise zipfile.BadZipFile("truncated, or no archive at all")
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} does not have its checksum")


def check_trained(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise a CheckpointError where a checkpoint was made before the first step."""
    if not checkpoint.get("global_step"):
        raise CheckpointError(f"checkpoint {path}: untrained, it has made no step")
