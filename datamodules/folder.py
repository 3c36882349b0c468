"""Your own pictures: a folder per class, or a CSV of path, label, client and patient."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..errors import DataError, check_count, check_number
from .dicom import find_patient
from .file_datamodule import FileDataModule
from .pictures import (
    PICTURE_SUFFIXES,
    count_frames,
    describe_picture,
    is_dicom,
    looks_like_picture,
    read_picture,
)
from .sources import Source, SourceFile
from .volumes import Axis
from .windows import Window

Frames = Literal["refuse", "first", "middle", "all"] | int


class FolderDataModule(FileDataModule):
    """Pictures in PNG, JPEG, TIFF, BMP, WebP, GIF and others, DICOM or NIfTI, resized and cached.

    A picture's middle square is resized to image_size. The client column of a CSV is the
    natural key for NaturalIdPartitioner; all pictures of a patient (the patient column, or a
    DICOM file's PatientID) stay on one side of the split and with one client.

    Args:
        sources: Folder or CSV file of every domain, relative to root and below it, by the
            domain's name: {north: north_hospital, south: south_hospital/labels.csv}.
        window: Values shown as black and white in deep grey pictures, volumes and grey DICOM, for
            instance [0, 4095] for 12-bit data; None is the whole 16-bit range, for DICOM the
            file's own window, else its extremes, and for a volume its extremes.
        classes: Allowed classes in order of label; None takes the sorted ones of each source.
        image_size: Side in pixels.
        channels: 1 (grey) or 3 (colour); None is colour where a domain has a coloured picture.
        background: Grey level 0 (black) to 255 (white) that shows through transparent pictures.
        frames: Of files with several pictures (DICOM frames, NIfTI slices, pages): "refuse" counts
            them as bad, "first", "middle" or "all" of them, or so many, evenly spread.
        axis: Of NIfTI volumes, the axis along which they are sliced.
        label_from: Of a CSV, another column than label for the class, or one finding of a label
            that lists several (A|B), told from "no <finding>".
        keep_patients: Keep a patient's pictures together; False divides them like others.
        kwargs: As in FileDataModule and FederatedDataModule.
    """

    def __init__(
        self,
        sources: dict[str, str],
        window: tuple[float, float] | None = None,
        classes: list[str] | None = None,
        image_size: int = 64,
        channels: Literal[1, 3] | None = None,
        background: int = 0,
        frames: Frames = "refuse",
        axis: Axis = "axial",
        label_from: str | None = None,
        keep_patients: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **kwargs)
        if window is not None:
            for value in window:
                check_number("data.window", value, -1e30, 1e30)
            if not window[0] < window[1]:
                raise DataError(f"data.window is {window}, needs two ascending values")
        check_count("data.background", background, 0, 255)
        if not isinstance(frames, str):
            check_count("data.frames", frames, 1)
        self.sources = sources
        self.classes = classes or []
        self.window: Window | None = window
        self.background = background
        self.frames: Frames = frames
        self.axis: Axis = axis
        self.label_from = label_from
        self.keep_patients = keep_patients

    def list_sources(self) -> list[Source]:
        """List the pictures of every domain."""
        listed = self.list_inside_root(
            self.sources, PICTURE_SUFFIXES, self.classes, looks_like_picture, self.label_from
        )
        return [self._choose(source) for source in listed]

    def read_sample(self, path: Path) -> Tensor:
        """Decode the one picture of a file to (C, S, S) uint8."""
        return self._read(path, None)

    def read_file(self, file: SourceFile) -> Tensor:
        """Decode one picture of a file to (C, S, S) uint8."""
        return self._read(file.path, file.frame)

    def describe_file(self, file: SourceFile) -> str:
        """Return size, depth and colour of the file."""
        return describe_picture(file.path)

    def describe_reading(self) -> Mapping[str, Any]:
        """Return all options of the decoding."""
        return {
            "size": self.image_size,
            "channels": self.channels,
            "window": self.window,
            "background": self.background,
            "axis": self.axis,
        }

    def explain(self) -> list[str]:
        """Return in sentences what is done to pictures."""
        low, high = self.window or ("0", "65535 (16 bits)")
        lines = [
            f"the middle square of a picture is resized to {self.image_size} x {self.image_size}",
            f"deep grey pictures show {low} as black and {high} as white"
            + ("" if self.window else "; DICOM its own window or extremes, volumes their extremes"),
            f"where a picture is transparent, grey level {self.background} shows",
        ]
        if self.frames != "refuse":
            lines.append(f"of files with several pictures are taken: {self.frames} ({self.axis})")
        return [*lines, *super().explain()]

    def _read(self, path: Path, frame: int | None) -> Tensor:
        return read_picture(
            path,
            self.image_size or 64,
            self.channels,
            self.window,
            background=self.background,
            frame=frame,
            axis=self.axis,
        )

    def _choose(self, source: Source) -> Source:
        """Choose the pictures of every file, and find out of whom they are."""
        files = source.files
        if not self.keep_patients:
            files = [file._replace(patient="") for file in files]
        elif not any(file.patient for file in files):
            files = _find_patients(files)
        if self.frames != "refuse":
            files = [each for file in files for each in self._list_frames(file)]
        return replace(source, files=files)

    def _list_frames(self, file: SourceFile) -> list[SourceFile]:
        count = count_frames(file.path, self.axis)
        if count == 1:
            return [file]
        wanted = {"first": [0], "middle": [count // 2], "all": range(count)}
        if isinstance(self.frames, str):
            chosen = list(wanted[self.frames])
        else:
            parts = min(self.frames, count)
            chosen = [(2 * part + 1) * count // (2 * parts) for part in range(parts)]
        return [file._replace(frame=number) for number in chosen]


def _find_patients(files: list[SourceFile]) -> list[SourceFile]:
    """Take patients from DICOM files; where all have the same, it was replaced and says nothing."""
    patients = [find_patient(file.path) if is_dicom(file.path) else "" for file in files]
    if len(set(patients)) < 2:
        return files
    return [file._replace(patient=p) for file, p in zip(files, patients, strict=True)]
