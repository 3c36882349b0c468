"""Reads one picture file: PNG, JPEG, TIFF (8 and 16 bit) or DICOM."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError
from .bad_data import BadSampleError
from .shapes import fit_samples

PICTURE_SUFFIXES = [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"]

Window = tuple[float, float]

_SIXTEEN_BIT = 65535.0
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def read_picture(path: Path, size: int, channels: int, window: Window | None = None) -> Tensor:
    """Decode a picture, cut out the middle square, and resize it.

    Args:
        path: The file.
        size: Wanted side in pixels.
        channels: 1 (grey) or 3 (colour).
        window: Values shown as black and white in 16-bit grey pictures and grey DICOM; None is
            the whole 16-bit range, and for DICOM the file's own window, else its own extremes.

    Returns:
        (channels, size, size) uint8.

    Raises:
        BadSampleError: Where the file is missing, damaged, or of a kind not supported.
        DataError: Where a DICOM file is met and pydicom is not installed.
    """
    if not path.is_file():
        raise BadSampleError("file is missing")
    values = (
        _read_dicom(path, window) if path.suffix.lower() == ".dcm" else _read_image(path, window)
    )
    if not np.isfinite(values).all():
        raise BadSampleError("NaN or infinite pixels")
    planes = torch.from_numpy(_cut_square(values)).unsqueeze(0)
    return fit_samples(planes, size, channels)[0].round_().clamp_(0, 255).to(torch.uint8)


def _cut_square(values: np.ndarray) -> np.ndarray:
    """Return (C, S, S), the middle of (H, W) or (H, W, C), S the shorter side."""
    planes = np.atleast_3d(values).transpose(2, 0, 1)
    side = min(planes.shape[1:])
    top, left = ((length - side) // 2 for length in planes.shape[1:])
    return np.ascontiguousarray(planes[:, top : top + side, left : left + side])


def _read_image(path: Path, window: Window | None) -> np.ndarray:
    """Return (H, W) or (H, W, 3) float32 in [0, 255]."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of pictures that are suspiciously large: refuse them, too.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _decode_image(image, window)
    except BadSampleError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise BadSampleError("picture cannot be decoded") from error


def _decode_image(image: Image.Image, window: Window | None) -> np.ndarray:
    # Many phones write a second, smaller picture into a JPEG, which is then called MPO.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise BadSampleError("picture with several pages")
    # Pillow's own layout of the file is like LA;16B or RGB;16L, and gone once it is loaded.
    has_sixteen_bits = ";16" in str(getattr(image, "tile", ""))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "F":
        if image.mode == "F" and window is None:
            raise BadSampleError("float pixels, which need a window")
        return _apply_window(np.asarray(image, np.float32), window or (0.0, _SIXTEEN_BIT))
    if has_sixteen_bits and window is not None:
        raise BadSampleError("16-bit colour or transparency, to which no window applies")
    has_colour = image.mode not in ("1", "L", "LA")
    return np.asarray(image.convert("RGB" if has_colour else "L"), np.float32)


def _read_dicom(path: Path, window: Window | None) -> np.ndarray:
    """Return (H, W) or (H, W, 3) float32 in [0, 255]."""
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut
    except ImportError as error:
        raise DataError("DICOM files need pydicom: pip install 'huscf[dicom]'") from error
    try:
        record = pydicom.dcmread(path)
        kind = record.get("PhotometricInterpretation")
        is_colour = kind == "PALETTE COLOR" or record.get("SamplesPerPixel", 1) == 3
        if is_colour:
            values = _show_colours(record)
        else:
            values = apply_modality_lut(record.pixel_array, record)
            if window is None:
                values, window = _show_as_the_file_says(values, record)
    except Exception as error:  # pydicom's decoders raise errors of many kinds
        raise BadSampleError("DICOM file cannot be decoded") from error
    if values.ndim != (3 if is_colour else 2):
        raise BadSampleError("DICOM file with several frames")
    if is_colour:
        return values
    shown = _apply_window(values, window or (float(values.min()), float(values.max())))
    return 255 - shown if kind == "MONOCHROME1" else shown


def _show_colours(record: Any) -> np.ndarray:
    """Return (H, W, 3) float32 in [0, 255], of RGB, YBR (which pydicom converts) or a palette."""
    from pydicom.pixels import apply_color_lut

    values, num_bits = record.pixel_array, record.BitsStored
    if record.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, record)[..., :3]
        _, _, num_bits = record.RedPaletteColorLookupTableDescriptor
    return values.astype(np.float32) * (255 / (2**num_bits - 1))


def _show_as_the_file_says(values: np.ndarray, record: Any) -> tuple[np.ndarray, Window | None]:
    """Return the values to show and what is black and white of them, None if the file is silent.

    Source: DICOM PS3.3, C.11.2, of whose alternatives the first is taken.
    """
    from pydicom.pixels import apply_voi

    if record.get("VOILUTSequence"):
        _, _, num_bits = record.VOILUTSequence[0].LUTDescriptor
        return apply_voi(np.rint(values).astype(np.int64), record), (0.0, 2.0**num_bits - 1)
    both = [record.get(name) for name in ("WindowCenter", "WindowWidth")]
    if None in both or "" in both:
        return values, None
    center, width = (float(np.atleast_1d(value)[0]) for value in both)
    function = record.get("VOILUTFunction", "LINEAR")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width)), (0.0, 1.0)
    if function == "LINEAR":
        # Half a value below the centre, and one value less: whole numbers are meant.
        center, width = center - 0.5, max(width - 1, 1e-6)
    return values, (center - width / 2, center + width / 2)


def _apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    low, high = window
    scale = 255 / (high - low) if high > low else 0.0
    return ((values.astype(np.float32) - low) * scale).clip(0, 255)
