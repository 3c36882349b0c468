"""Reads slices of NIfTI volumes, turned as their headers say."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from ..errors import DataError
from .bad_data import BadSampleError, PassingError
from .windows import MOST_PIXELS, Window, apply_window

NIFTI_SUFFIXES = (".nii", ".nii.gz")

Axis = Literal["sagittal", "coronal", "axial"]

_AXES: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


def read_slice(path: Path, window: Window | None, frame: int | None, axis: Axis) -> np.ndarray:
    """Read one slice as radiologists look at it.

    Axial slices are seen from the feet, coronal ones from the front: the patient's right is left
    in the picture, the front or the head is up; sagittal ones look to the left. Where voxels are
    not square the slice is stretched to its true proportions.

    Args:
        path: The volume.
        window: Values shown as black and white; None is the volume's own extremes.
        frame: Which slice, from the patient's left, back or feet; None refuses all but one.
        axis: The axis along which slices are counted.

    Returns:
        (H, W) float32 in [0, 255].

    Raises:
        BadSampleError: Where the file is damaged or of a kind not supported.
        DataError: Where nibabel is not installed.
    """
    try:
        volume, spacing = _read_volume(path, path.stat().st_mtime_ns)
    except OSError as error:
        if error.errno:
            raise PassingError(f"file cannot be read ({error.strerror})") from error
        raise BadSampleError("volume cannot be decoded") from error
    number = _AXES[axis]
    if frame is None and volume.shape[number] > 1:
        raise BadSampleError("volume with several slices (see frames)")
    if frame is not None and frame >= volume.shape[number]:
        raise BadSampleError("volume without this slice")
    if window is None:
        if not np.isfinite(volume).all():
            raise BadSampleError("NaN or infinite pixels")
        window = (float(volume.min()), float(volume.max()))
    plane = volume.take(frame or 0, number).T[::-1, ::-1]  # head or front up, right or front left
    across, down = (step for place, step in enumerate(spacing) if place != number)
    return _make_square(apply_window(plane, window), down, across)


def count_slices(path: Path, axis: Axis) -> int:
    """Return how many slices a volume has along an axis."""
    image = _open(path)
    shape = _find_shape(image)
    return shape[list(_find_axes(image)[:, 0]).index(_AXES[axis])]


def describe_volume(path: Path) -> str:
    """Return size and type of a volume."""
    image = _open(path)
    shape = " x ".join(map(str, image.shape))
    return f"volume of {shape}, {image.get_data_dtype()}"


def _open(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise DataError("NIfTI volumes need nibabel: pip install 'huscf[nifti]'") from error
    try:
        return nibabel.load(path)
    except OSError:
        raise
    except Exception as error:  # damaged headers raise errors of many kinds
        raise BadSampleError("volume cannot be decoded") from error


@lru_cache(maxsize=1)
def _read_volume(path: Path, modified_ns: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return (X, Y, Z) float32, running to the patient's right, front and head, and its spacing.

    The spacing is millimetres from voxel to voxel along X, Y and Z.
    """
    image = _open(path)
    shape, axes = _find_shape(image), _find_axes(image)
    if np.prod(shape, dtype=np.float64) > MOST_PIXELS:
        raise BadSampleError("volume of more than 2^27 voxels")
    try:
        values = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except OSError:
        raise
    except Exception as error:  # damaged data raises errors of many kinds
        raise BadSampleError("volume cannot be decoded") from error
    steps = [*map(float, image.header.get_zooms()[:3]), 1.0][:3]
    spacing = [1.0] * 3
    for (place, _), step in zip(axes, steps, strict=True):
        spacing[int(place)] = step if np.isfinite(step) and step > 0 else 1.0
    from nibabel import apply_orientation

    return apply_orientation(values, axes), tuple(spacing)


def _find_shape(image: Any) -> list[int]:
    """Return the three lengths of a volume; a single picture is a volume of one slice."""
    shape = [length for place, length in enumerate(image.shape) if place < 3 or length > 1]
    if len(shape) not in (2, 3):
        raise BadSampleError(f"volume of {len(shape)} dimensions, not 3")
    return [*shape, 1][:3]


def _find_axes(image: Any) -> np.ndarray:
    """Return (3, 2): of every axis of the array, to which of X, Y, Z it belongs, and its sign."""
    import nibabel

    axes = nibabel.io_orientation(image.affine)
    if axes.shape != (3, 2) or not np.isfinite(axes).all():
        raise BadSampleError("volume whose header has no orientation")
    return axes


def _make_square(plane: np.ndarray, down: float, across: float) -> np.ndarray:
    """Stretch a slice of voxels of these millimetres so that its pixels are square."""
    finest = min(down, across)
    size = [round(n * step / finest) for n, step in zip(plane.shape, (down, across), strict=True)]
    if size == list(plane.shape):
        return np.ascontiguousarray(plane)
    values = torch.from_numpy(np.ascontiguousarray(plane))[None, None]
    return functional.interpolate(values, size, mode="bilinear", antialias=True)[0, 0].numpy()
