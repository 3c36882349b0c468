"""What files of the cache have in common: keys made of content, and writing all or nothing."""

import os
import uuid
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .labelled_samples import LabelledSamples


class Digest(Protocol):
    """A hash in the making, as of hashlib."""

    def update(self, data: Any, /) -> None:
        """Add bytes, or an array that lies in one piece."""


def add_samples(digest: Digest, data: LabelledSamples) -> None:
    """Add all that makes labelled samples what they are."""
    digest.update(f"{data.samples.dtype} {tuple(data.samples.shape)} {data.num_classes}".encode())
    digest.update(as_buffer(data.samples))
    digest.update(as_buffer(data.labels.long()))


def as_buffer(tensor: Tensor) -> Any:
    """Return what a hash reads; it is no copy of a tensor that lies on the CPU in one piece."""
    return tensor.detach().cpu().contiguous().numpy()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write to a temporary file and rename it: other processes see all of it or nothing.

    Raises:
        OSError: Where it cannot be written.
    """
    # Not a file of tempfile's, which no other user of a shared folder could read.
    partial = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
