"""Reads one picture of a file: the usual formats, DICOM, or a slice of a NIfTI volume."""

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, features
from torch import Tensor

from .bad_data import BadSampleError, PassingError
from .dicom import DICOM_SUFFIXES, count_dicom_frames, describe_dicom, read_dicom
from .shapes import fit_samples
from .volumes import NIFTI_SUFFIXES, Axis, count_slices, describe_volume, read_slice
from .windows import Window, apply_window

IMAGE_SUFFIXES = [
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp"),
    *(".gif", ".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".avif"),
]
PICTURE_SUFFIXES = [*IMAGE_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES]

#: What Pillow may read: it knows formats, too, whose reading starts other programs.
_FORMATS = {"PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF"}
_TOO_LARGE = (Image.DecompressionBombWarning, Image.DecompressionBombError)
_OPTIONAL = {".webp": "webp", ".avif": "avif", ".jp2": "jpg_2000"}  # Pillow may lack these
_FIRST_BYTES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF8", b"\0\0\0\x0cjP")
_DICOM_GROUPS = (b"\x02\0", b"\x08\0")  # with which DICOM files without preamble begin
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_GREY_MODES = ("1", "L", "LA", "La", "F", *_SIXTEEN_BIT_MODES)
_TAG_BITS, _TAG_PHOTOMETRIC, _TAG_FORMAT = 258, 262, 339  # of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2

Kind = Literal["image", "dicom", "volume"]


def read_picture(
    path: Path,
    size: int,
    channels: int | None,
    window: Window | None = None,
    *,
    background: int = 0,
    frame: int | None = None,
    axis: Axis = "axial",
) -> Tensor:
    """Decode a picture, cut out the middle square, and resize it.

    Args:
        path: The file.
        size: Wanted side in pixels.
        channels: 1 (grey), 3 (colour), or None: colour only where its planes differ.
        window: Values shown as black and white in deep grey pictures, volumes and grey DICOM;
            None is the whole range of 16 bits, and for DICOM the file's own window, else its own
            extremes. Signed, 32-bit and float pixels need one.
        background: Grey level 0 to 255 that shows through where a picture is transparent.
        frame: Which picture of a file with several, from 0; None refuses such files.
        axis: Of volumes, the axis along which they are sliced.

    Returns:
        (channels, size, size) uint8.

    Raises:
        BadSampleError: Where the file is missing, damaged, or of a kind not supported.
        DataError: Where the file needs a library that is not installed.
    """
    try:
        if not path.is_file():
            raise BadSampleError("file is missing")
        kind = _find_kind(path)
    except OSError as error:
        raise PassingError(f"file cannot be read ({error.strerror})") from error
    if kind == "dicom":
        values = read_dicom(path, window, frame)
    elif kind == "volume":
        values = read_slice(path, window, frame, axis)
    else:
        values = _read_image(path, window, background, frame)
    if not np.isfinite(values).all():
        raise BadSampleError("NaN or infinite pixels")
    planes = torch.from_numpy(_cut_square(_drop_equal_planes(values))).unsqueeze(0)
    fitted = fit_samples(planes, size, channels or planes.shape[1])
    return fitted[0].round_().clamp_(0, 255).to(torch.uint8)


def looks_like_picture(head: bytes) -> bool:
    """Whether these first bytes of a file are those of a picture, whatever it is called."""
    is_container = head[8:12] == b"WEBP" or head[4:12] == b"ftypavif"
    is_bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    is_dicom = head[128:132] == b"DICM" or (head[:2] in _DICOM_GROUPS and head[3:4] == b"\0")
    return head.startswith(_FIRST_BYTES) or is_container or is_bitmap or is_dicom


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM; those that are named as pictures are taken for such."""
    try:
        is_named = path.name.lower().endswith(tuple(IMAGE_SUFFIXES))
        return not is_named and _find_kind(path) == "dicom"
    except OSError:
        return False


def count_frames(path: Path, axis: Axis) -> int:
    """Return how many pictures a file holds; 1 where it cannot be told, as for damaged files."""
    try:
        kind = _find_kind(path)
        if kind == "dicom":
            return count_dicom_frames(path)
        if kind == "volume":
            return count_slices(path, axis)
        with _open_image(path) as image:
            return _count_pages(image)
    except (BadSampleError, OSError, ValueError, SyntaxError, *_TOO_LARGE):
        return 1


def describe_picture(path: Path) -> str:
    """Return size, depth and colour of a file, as "512 x 400, 16-bit grey"."""
    try:
        kind = _find_kind(path)
        if kind == "dicom":
            return describe_dicom(path)
        if kind == "volume":
            return describe_volume(path)
        with _open_image(path) as image:
            bits = {"1": 1, "F": 32}.get(image.mode) or _find_bits(image)
            colour = "grey" if image.mode in _GREY_MODES else image.mode
            return f"{image.width} x {image.height}, {bits}-bit {colour}"
    except (BadSampleError, OSError, ValueError, SyntaxError, *_TOO_LARGE):
        return "not readable"


def _find_kind(path: Path) -> Kind:
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return "volume"
    if name.endswith(DICOM_SUFFIXES):
        return "dicom"
    with path.open("rb") as stream:
        head = stream.read(132)
    is_named = name.endswith(tuple(IMAGE_SUFFIXES))
    begins_like_dicom = head[:2] in _DICOM_GROUPS and not is_named
    return "dicom" if head[128:] == b"DICM" or begins_like_dicom else "image"


def _drop_equal_planes(values: np.ndarray) -> np.ndarray:
    """Return (H, W) of (H, W, 3) whose planes are equal: grey that was stored as colour."""
    is_grey = values.ndim == 3 and (values == values[..., :1]).all()
    return values[..., 0] if is_grey else values


def _cut_square(values: np.ndarray) -> np.ndarray:
    """Return (C, S, S), the middle of (H, W) or (H, W, C), S the shorter side."""
    planes = np.atleast_3d(values).transpose(2, 0, 1)
    side = min(planes.shape[1:])
    top, left = ((length - side) // 2 for length in planes.shape[1:])
    return np.ascontiguousarray(planes[:, top : top + side, left : left + side])


def _read_image(
    path: Path, window: Window | None, background: int, frame: int | None
) -> np.ndarray:
    """Return (H, W) or (H, W, 3) float32 in [0, 255]."""
    try:
        with _open_image(path) as image:
            if frame is not None:
                image.seek(frame)
            elif _count_pages(image) > 1:
                raise BadSampleError("picture with several pages (see frames)")
            return _decode_image(image, window, background)
    except BadSampleError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise _find_reason(path, error) from error


def _open_image(path: Path) -> Image.Image:
    Image.init()
    with warnings.catch_warnings():
        # Pillow only warns of pictures that are suspiciously large: refuse them, too.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=sorted(_FORMATS & Image.OPEN.keys()))


def _find_reason(path: Path, error: Exception) -> BadSampleError:
    decoder = _OPTIONAL.get(path.suffix.lower())
    if isinstance(error, OSError) and error.errno:
        return PassingError(f"file cannot be read ({error.strerror})")
    if isinstance(error, _TOO_LARGE):
        return BadSampleError(f"picture of more than {(Image.MAX_IMAGE_PIXELS or 0):,} pixels")
    if isinstance(error, MemoryError):
        return PassingError("picture cannot be decoded here (too little memory)")
    if decoder is not None and decoder not in features.get_supported():
        return PassingError(
            f"picture whose decoder is missing: this Pillow was built without {decoder}"
        )
    return BadSampleError("picture cannot be decoded")


def _count_pages(image: Image.Image) -> int:
    # Many phones write a second, smaller picture into a JPEG, which is then called MPO.
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _find_bits(image: Image.Image) -> int:
    """Return the bits of one pixel's value."""
    if image.format == "TIFF":
        return int(np.atleast_1d(image.tag_v2.get(_TAG_BITS, 1))[0])  # type: ignore[attr-defined]
    return 16 if image.mode in _SIXTEEN_BIT_MODES or _has_sixteen_bits(image) else 8


def _has_sixteen_bits(image: Image.Image) -> bool:
    # Pillow's own layout of the file is like LA;16B or RGB;16L, and gone once it is loaded.
    return ";16" in str(getattr(image, "tile", ""))


def _decode_image(image: Image.Image, window: Window | None, background: int) -> np.ndarray:
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    is_signed = _SIGNED in np.atleast_1d(tags.get(_TAG_FORMAT, 1))
    num_bits, has_sixteen_bits = _find_bits(image), _has_sixteen_bits(image)
    image.load()
    transparent = image.info.get("transparency")
    image = ImageOps.exif_transpose(image)
    is_deep = image.mode in _SIXTEEN_BIT_MODES or image.mode == "F"
    if is_deep or is_signed:
        _check_window(image.mode, is_signed, num_bits, window)
        values = np.asarray(image)
        if num_bits == 32 and image.mode == "I" and not is_signed:
            values = values.view(np.uint32)  # which Pillow has no mode for
        shown = apply_window(values, window or (0.0, 2.0**num_bits - 1))
        if tags.get(_TAG_PHOTOMETRIC) == _WHITE_IS_ZERO:
            shown = 255 - shown
        if isinstance(transparent, int):
            shown[values == transparent] = background
        return shown
    if has_sixteen_bits and window is not None:
        raise BadSampleError("16-bit colour or transparency, to which no window applies")
    return np.asarray(_flatten(image, background), np.float32)


def _check_window(mode: str, is_signed: bool, num_bits: int, window: Window | None) -> None:
    """Refuse what nobody can say how to show."""
    if is_signed and mode == "L":
        raise BadSampleError("signed 8-bit pixels")
    if window is None and (mode == "F" or is_signed or num_bits == 32):
        kind = "float" if mode == "F" else "signed" if is_signed else "32-bit"
        raise BadSampleError(f"{kind} pixels, which need a window")


def _flatten(image: Image.Image, background: int) -> Image.Image:
    """Return an 8-bit picture in grey or RGB; what is transparent shows the background."""
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if has_alpha:
        layer = image.convert("RGBA")
        base = Image.new("RGBA", layer.size, (background, background, background, 255))
        return Image.alpha_composite(base, layer).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
