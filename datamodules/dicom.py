"""Reads one picture of a DICOM file, and of whom it is."""

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .bad_data import BadSampleError, PassingError
from .codestreams import find_size
from .windows import MOST_PIXELS, Window, apply_window

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_MAGIC = b"DICM"
_META_BYTES = 128 + 4 + 12  # preamble, magic, and the element with the length of the rest
_MOST_INFLATED = 4 * MOST_PIXELS  # bytes


def read_dicom(path: Path, window: Window | None, frame: int | None) -> np.ndarray:
    """Decode one picture.

    Pixels that the file declares as padding, outside the field of view, are black and count for
    no extremes.

    Args:
        path: The file; one without preamble and header is read as PACS write it.
        window: Values shown as black and white in grey pictures; None is the file's own window,
            else its own extremes.
        frame: Which of several pictures, from 0; None refuses such files.

    Returns:
        (H, W) or (H, W, 3) float32 in [0, 255].

    Raises:
        BadSampleError: Where the file is damaged or of a kind not supported.
        PassingError: Where its decoder is not installed.
        DataError: Where pydicom is not installed.
    """
    pixels = _import_pixels()
    try:
        record = _read_record(path)
        _check_pixels(record, frame)
        _check_decoder(record)
        _check_stream(record, frame or 0)
        stored = pixels.pixel_array(record, index=frame or 0)
        _take_frame_values(record, frame or 0)
        return _show(stored, record, window)
    except BadSampleError:
        raise
    except OSError as error:
        raise PassingError(f"file cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise PassingError("DICOM file cannot be decoded here (too little memory)") from error
    except Exception as error:  # pydicom's decoders raise errors of many kinds
        raise BadSampleError("DICOM file cannot be decoded") from error


def count_dicom_frames(path: Path) -> int:
    """Return how many pictures a file holds, 1 for damaged ones."""
    return _count_frames(_read_header(path))


def describe_dicom(path: Path) -> str:
    """Return size, depth and kind of a file."""
    header = _read_header(path)
    if "Rows" not in header:
        return "not readable"
    frames = _count_frames(header)
    several = f", {frames} frames" if frames > 1 else ""
    kind = header.get("PhotometricInterpretation", "")
    return f"{header.Columns} x {header.Rows}, {header.get('BitsStored')}-bit {kind}{several}"


def find_patient(path: Path) -> str:
    """Return a hash of a file's PatientID, "" where it has none."""
    header = _read_header(path)
    if not str(header.get("PatientID") or "").strip():
        return ""
    whole = f"{header.get('IssuerOfPatientID') or ''}\0{str(header.PatientID).strip()}"
    return hashlib.blake2b(whole.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _import_pixels() -> Any:
    try:
        from pydicom import pixels
    except ImportError as error:
        raise DataError("DICOM files need pydicom: pip install 'huscf[dicom]'") from error
    return pixels


def _read_header(path: Path) -> Any:
    """Return what a file says of itself, an empty record where it cannot be read."""
    _import_pixels()
    from pydicom import Dataset

    try:
        return _read_record(path, stop_before_pixels=True)
    except Exception:  # reading its pixels reports what is wrong
        return Dataset()


def _read_record(path: Path, **options: Any) -> Any:
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with path.open("rb") as stream:
        has_preamble = stream.read(132)[128:] == _MAGIC
    if has_preamble:
        _check_deflated(path)
    record = pydicom.dcmread(path, force=not has_preamble, **options)
    if "TransferSyntaxUID" not in record.file_meta:
        is_implicit, is_little = record.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        record.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return record


def _check_deflated(path: Path) -> None:
    """Refuse a deflated file that would fill the memory: pydicom inflates it at once.

    Source: DICOM PS3.5, A.5.
    """
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    start = _META_BYTES + meta.FileMetaInformationGroupLength
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(path.read_bytes()[start:], _MOST_INFLATED)
    if inflater.unconsumed_tail:
        raise BadSampleError(f"DICOM file that would grow beyond {_MOST_INFLATED >> 20} MiB")


def _count_frames(record: Any) -> int:
    return int(record.get("NumberOfFrames") or 1)


def _check_pixels(record: Any, frame: int | None) -> None:
    if not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(record.dir()):
        raise BadSampleError("DICOM file without a picture")
    if record.Rows * record.Columns * record.get("SamplesPerPixel", 1) > MOST_PIXELS:
        raise BadSampleError("DICOM picture of more than 2^27 pixels")
    if frame is None and _count_frames(record) > 1:
        raise BadSampleError("DICOM file with several frames (see frames)")


def _check_decoder(record: Any) -> None:
    from pydicom.pixels import get_decoder

    syntax = record.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise BadSampleError(f"DICOM pixels in {syntax.name}, which cannot be decoded") from error
    if not decoder.is_available:
        raise PassingError(
            f"DICOM pixels in {syntax.name}, whose decoder is missing: pip install 'huscf[dicom]'"
        )


def _check_stream(record: Any, frame: int) -> None:
    """Refuse a compressed picture of another size than declared: decoders believe the stream."""
    from pydicom.encaps import get_frame

    if not record.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    size = find_size(get_frame(record.PixelData, frame, number_of_frames=_count_frames(record)))
    declared = (record.Rows, record.Columns)
    if size is not None and all(size) and size != declared:  # 0: said at the stream's end
        raise BadSampleError(
            f"DICOM picture of {declared[1]} x {declared[0]} pixels whose compressed data are "
            f"{size[1]} x {size[0]}"
        )


def _take_frame_values(record: Any, frame: int) -> None:
    """Give the record the scale and window that a file of several frames keeps for each.

    Source: DICOM PS3.3, C.7.6.16.
    """
    for name, position in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", frame),
    ):
        group = (record.get(name) or [])[position : position + 1]
        for part in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for element in group[0].get(part, [[]])[0] if group else ():
                record.add(element)


def _show(stored: np.ndarray, record: Any, window: Window | None) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    kind = record.get("PhotometricInterpretation")
    if kind == "PALETTE COLOR" or record.get("SamplesPerPixel", 1) == 3:
        return _show_colours(stored, record)
    padding = _find_padding(stored, record)
    values = apply_modality_lut(stored, record)
    if window is None:
        values, window = _show_as_the_file_says(values, record)
    seen = values[~padding]
    shown = apply_window(values, window or (float(seen.min()), float(seen.max())))
    if kind == "MONOCHROME1":
        shown = 255 - shown
    return np.where(padding, np.float32(0), shown)


def _find_padding(stored: np.ndarray, record: Any) -> np.ndarray:
    """Return where a picture has no content, as the file declares it; nowhere if that is all.

    Source: DICOM PS3.3, C.7.5.1.1.2.
    """
    first = record.get("PixelPaddingValue")
    if first is None or first == "":
        return np.zeros(stored.shape, bool)
    limit = record.get("PixelPaddingRangeLimit")
    ends = sorted(_as_stored(v, record) for v in (first, first if limit in (None, "") else limit))
    padding = (stored >= ends[0]) & (stored <= ends[1])
    return padding & (not padding.all())


def _as_stored(value: Any, record: Any) -> int:
    """Return a value as the pixels have it: some files give negative ones as unsigned."""
    number = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)
    is_wrapped = record.PixelRepresentation == 1 and number >= 1 << (record.BitsAllocated - 1)
    return number - (1 << record.BitsAllocated) if is_wrapped else number


def _show_colours(values: np.ndarray, record: Any) -> np.ndarray:
    """Return (H, W, 3) float32 in [0, 255], of RGB, YBR (which pydicom converts) or a palette."""
    from pydicom.pixels import apply_color_lut

    num_bits = record.BitsStored
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
