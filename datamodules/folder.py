"""Your own pictures: a folder per class, or a CSV of path, label and client."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..errors import DataError
from .file_datamodule import FileDataModule
from .pictures import PICTURE_SUFFIXES, Window, read_picture
from .sources import Source


class FolderDataModule(FileDataModule):
    """Pictures in PNG, JPEG, TIFF or DICOM; each is resized once and cached.

    A picture's middle square is resized to image_size. The client column of a CSV is the
    natural key for NaturalIdPartitioner.

    Args:
        sources: Folder or CSV file of every domain, relative to root and below it, by the
            domain's name: {north: north_hospital, south: south_hospital/labels.csv}.
        window: Values shown as black and white in 16-bit grey pictures and grey DICOM, for
            instance [0, 4095] for 12-bit data; None is the whole 16-bit range, and for DICOM
            the file's own window, else each picture's own extremes.
        classes: Allowed classes in order of label; None takes the sorted ones of each source.
        image_size: Side in pixels.
        channels: 1 (grey) or 3 (colour).
        kwargs: As in FileDataModule and FederatedDataModule.
    """

    def __init__(
        self,
        sources: dict[str, str],
        window: tuple[float, float] | None = None,
        classes: list[str] | None = None,
        image_size: int = 64,
        channels: Literal[1, 3] = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **kwargs)
        if window is not None and not window[0] < window[1]:
            raise DataError(f"window is {window}, needs two ascending values")
        self.sources = sources
        self.classes = classes or []
        self.window: Window | None = window

    def list_sources(self) -> list[Source]:
        """List the pictures of every domain."""
        return self.list_inside_root(self.sources, PICTURE_SUFFIXES, self.classes)

    def read_sample(self, path: Path) -> Tensor:
        """Decode one picture to (C, S, S) uint8."""
        return read_picture(path, self.image_size or 64, self.channels or 1, self.window)

    def describe_reading(self) -> Mapping[str, Any]:
        """Return size, channels and window."""
        return {"size": self.image_size, "channels": self.channels, "window": self.window}
