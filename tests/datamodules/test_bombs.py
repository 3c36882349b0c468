"""Small files that stand for more than the memory holds, refused by size before decoding."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from huscf.datamodules import LogMel
from huscf.datamodules.bad_data import BadSampleError
from huscf.datamodules.pictures import count_frames, describe_picture, read_picture
from huscf.datamodules.recordings import describe_recording, read_recording
from tests.datamodules.test_folder import make_dicom

MOST_MIB = 64  # of memory while a file is refused


def refuse(read, path, *options):
    """Return why a file is refused, which may take no more memory than a small part of it."""
    tracemalloc.start()
    try:
        with pytest.raises(BadSampleError) as caught:
            read(path, *options)
        assert tracemalloc.get_traced_memory()[1] < MOST_MIB << 20
    finally:
        tracemalloc.stop()
    return str(caught.value)


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def write_png(path, side):
    """A grey PNG of black rows, without ever holding them."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_of_a_few_bytes_does_not_fill_the_memory(tmp_path, side):
    path = tmp_path / "a.png"
    if side == 10_000:
        write_png(path, side)
        assert path.stat().st_size < 1 << 20
    else:
        rows = zlib.compress(bytes(100))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    assert refuse(read_picture, path, 8, 1) == "picture of more than 89,478,485 pixels"
    assert count_frames(path, "axial") == 1
    assert describe_picture(path)


def test_a_large_picture_is_read(tmp_path):
    write_png(tmp_path / "a.png", 3000)
    assert read_picture(tmp_path / "a.png", 8, 1).unique().tolist() == [0]


@pytest.mark.parametrize("ending", ["bmp", "gif", "tif", "ppm"])
def test_other_pictures_say_their_size_first_too(tmp_path, ending):
    side = 50_000
    content = {
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, side, side, 1, 24, *[0] * 6),
        "gif": b"GIF89a"
        + struct.pack("<HHBBB", side, side, 0, 0, 0)
        + b",\0\0\0\0"
        + struct.pack("<HHB", side, side, 0)
        + b"\x02\0;",
        "tif": b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", 7)
        + b"".join(
            struct.pack("<HHII", tag, 4, 1, value)
            for tag, value in [
                (256, side),
                (257, side),
                (258, 8),
                (259, 1),
                (262, 1),
                (273, 200),
                (278, side),
            ]
        )
        + bytes(200),
        "ppm": f"P5 {side} {side} 255 ".encode() + bytes(8),
    }
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content[ending])
    assert refuse(read_picture, path, 8, 1) == "picture of more than 89,478,485 pixels"


@pytest.mark.parametrize("rows", [12_000, 65_535])
def test_a_dicom_file_says_its_size_first(tmp_path, rows):
    pytest.importorskip("pydicom")
    record = make_dicom("MONOCHROME2")
    record.Rows = record.Columns = rows
    record.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "more than 2^27 pixels" in refuse(read_picture, tmp_path / "a.dcm", 8, 1)


def test_a_deflated_dicom_file_is_inflated_to_no_more_than_a_picture(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    record = make_dicom("MONOCHROME2")
    record.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    record.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    plain = make_dicom("MONOCHROME2")
    plain.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    same = [read_picture(tmp_path / f"{n}.dcm", 8, 1) for n in "ab"]
    assert same[0].equal(same[1])
    record.add_new(0x00091010, "OB", bytes(1 << 20))
    record.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert (tmp_path / "a.dcm").stat().st_size < 1 << 14
    monkeypatch.setattr("huscf.datamodules.dicom._MOST_INFLATED", 1 << 19)
    assert "would grow beyond" in refuse(read_picture, tmp_path / "a.dcm", 8, 1)
    assert describe_picture(tmp_path / "a.dcm") == "not readable"


@pytest.mark.parametrize("ending", ["flac", "wav"])
def test_days_of_silence_in_a_small_file_are_refused(tmp_path, monkeypatch, ending):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.zeros((100_000, 2), np.int16), 8000)
    assert refuse(read_recording, path, LogMel()) == "recording of silence"
    monkeypatch.setattr("huscf.datamodules.recordings.MOST_VALUES", 199_999)
    assert refuse(read_recording, path, LogMel()) == "recording of more than 2^28 values"
    assert describe_recording(path).startswith("8000 Hz")


def test_a_recording_that_promises_more_than_there_is(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "a.flac"
    soundfile.write(path, np.arange(4000, dtype=np.int16), 8000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the high bits of STREAMINFO's number of samples
    path.write_bytes(content)
    assert refuse(read_recording, path, LogMel()) == "recording of more than 2^28 values"
