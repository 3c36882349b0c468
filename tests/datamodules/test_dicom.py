"""DICOM as scanners and archives write it: padding, headers, decoders, frames, patients."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from huscf.datamodules import FolderDataModule
from huscf.datamodules.codestreams import find_size
from huscf.datamodules.dicom import find_patient
from huscf.datamodules.pictures import describe_picture, read_picture
from huscf.errors import DataError
from tests.datamodules.test_folder import make_dicom

pydicom = pytest.importorskip("pydicom")
encapsulate = pydicom.encaps.encapsulate


def fill(record, values):
    """Give a record 16-bit values (H, W) or (F, H, W)."""
    record.Rows, record.Columns = values.shape[-2:]
    record.BitsAllocated, record.BitsStored, record.HighBit = 16, 16, 15
    record.PixelRepresentation = int(values.dtype.kind == "i")
    record.RescaleIntercept = 0
    record.PixelData = values.tobytes()
    if values.ndim == 3:
        record.NumberOfFrames = len(values)
    return record


def show(path, record, window=None, **options):
    record.save_as(path, enforce_file_format=True)
    return read_picture(path, record.Rows, 1, window, **options)[0].int().numpy()


def make_disc(dtype, inside, outside):
    """Values 0 to inside in a disc of 64 x 64, and where it is."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    disc = x**2 + y**2 < 0.9
    ramp = np.tile(np.linspace(0, inside, 64), (64, 1))
    return np.where(disc, ramp, outside).astype(dtype), disc


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    ("dtype", "outside", "value", "limit"),
    [
        (np.int16, -3024, -3024, None),
        (np.int16, -2000, 63536, None),  # negative, but written as unsigned
        (np.uint16, 16383, 16383, None),
        (np.uint16, 16383, 16000, 16383),
        (np.uint16, 16383, 16383, 16000),
    ],
)
def test_padding_is_black_and_leaves_the_picture_its_contrast(
    tmp_path, kind, dtype, outside, value, limit
):
    values, disc = make_disc(dtype, 1000, outside)
    record = fill(make_dicom(kind), values)
    record.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    if limit is not None:
        record.add_new("PixelPaddingRangeLimit", "US", limit)
    shown = show(tmp_path / "a.dcm", record)
    assert (shown[~disc] == 0).all()
    expected = np.where(kind == "MONOCHROME2", values, 1000 - values.astype(int)) * 0.255
    least, most = expected[disc].min(), expected[disc].max()
    stretched = (expected - least) / (most - least) * 255
    assert np.abs(shown - stretched)[disc].max() <= 0.51
    windowed = show(tmp_path / "b.dcm", record, (0.0, 2000.0))
    assert (windowed[~disc] == 0).all()


def test_a_picture_of_padding_alone_is_shown_as_any_other(tmp_path):
    record = fill(make_dicom(), np.full((8, 8), 5, np.uint16))
    record.PixelPaddingValue = 5
    assert (show(tmp_path / "a.dcm", record, (0.0, 10.0)) == 128).all()


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_header_are_read(tmp_path, implicit):
    values = (np.arange(64, dtype=np.uint16) * 100).reshape(8, 8)
    record = fill(make_dicom(), values)
    bare = pydicom.Dataset({element.tag: element for element in record})
    bare.save_as(
        tmp_path / "a.dcm", implicit_vr=implicit, little_endian=True, enforce_file_format=False
    )
    shown = read_picture(tmp_path / "a.dcm", 8, 1)[0].int().numpy()
    assert np.abs(shown - np.arange(64).reshape(8, 8) / 63 * 255).max() <= 0.51
    (tmp_path / "a.dcm").rename(tmp_path / "IM0001")
    assert np.array_equal(read_picture(tmp_path / "IM0001", 8, 1)[0].int().numpy(), shown)


def make_compressed(syntax):
    record = fill(make_dicom(), np.zeros((8, 8), np.uint16))
    record.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + bytes(40)])
    record["PixelData"].VR = "OB"
    record["PixelData"].is_undefined_length = True
    record.file_meta.TransferSyntaxUID = syntax
    return record


def make_folder(folder, record):
    for name in ("ill", "well"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            record.save_as(folder / name / f"{number}.dcm", enforce_file_format=True)


def make_module(root, **options):
    options = {"image_size": 8, "clients_per_domain": 2} | options
    return FolderDataModule({"ct": "ct"}, root=str(root), **options)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless Image Compression"),
        ("1.2.840.10008.1.2.4.70", "JPEG Lossless, Non-Hierarchical"),
    ],
)
def test_a_missing_decoder_is_named_and_not_kept(tmp_path, monkeypatch, syntax, name):
    syntax = pydicom.uid.UID(syntax)
    monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})
    make_folder(tmp_path / "ct", make_compressed(syntax))
    options = {"cache_dir": str(tmp_path / "cache")}
    message = rf"10 x DICOM pixels in {name}.* decoder is missing: pip install 'huscf\[dicom\]'"
    with pytest.raises(DataError, match=message):
        _ = make_module(tmp_path, **options).domains
    assert list((tmp_path / "cache").iterdir()) == []
    values = (np.arange(64, dtype=np.uint16) * 100).reshape(8, 8)
    monkeypatch.setattr("huscf.datamodules.dicom._check_decoder", lambda record: None)
    monkeypatch.setattr(pydicom.pixels, "pixel_array", lambda record, index: values)
    domain = make_module(tmp_path, **options).domains["ct"]
    assert len(domain.train_labels) == 8 and domain.train_samples.max() == 255


def test_pixels_that_nobody_decodes_are_named(tmp_path):
    record = make_compressed(pydicom.uid.MPEG2MPML)
    with pytest.raises(DataError, match=r"DICOM pixels in MPEG2.*which cannot be decoded"):
        show(tmp_path / "a.dcm", record)


KINDS = {"JPEG": "JPEGBaseline8Bit", "JPEG2000": "JPEG2000Lossless"}


def compress(kind, values, rows, columns):
    """A record of rows x columns whose stream holds the picture `values` (H, W)."""
    file = io.BytesIO()
    options = {"no_jp2": True} if kind == "JPEG2000" else {"quality": 95}
    Image.fromarray(values).save(file, kind, **options)
    record = make_dicom("MONOCHROME2")
    record.Rows, record.Columns, record.SamplesPerPixel = rows, columns, 1
    record.BitsAllocated, record.BitsStored, record.HighBit = 8, 8, 7
    record.PixelRepresentation, record.RescaleIntercept = 0, 0
    record.file_meta.TransferSyntaxUID = getattr(pydicom.uid, KINDS[kind])
    record.PixelData = encapsulate([file.getvalue()])
    record["PixelData"].is_undefined_length = True
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_decoded_only_if_it_is_as_large_as_declared(tmp_path, kind):
    values = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    shown = show(tmp_path / "good.dcm", compress(kind, values, 32, 32))
    assert np.abs(shown - values.astype(int)).max() <= 4
    large = np.tile(values, (3, 2))
    with pytest.raises(DataError, match="of 32 x 32 pixels whose compressed data are 64 x 96"):
        show(tmp_path / "bomb.dcm", compress(kind, large, 32, 32))


@pytest.mark.parametrize(
    ("stream", "size"),
    [
        ("ffd8ffe000040000ffc3000b08010203040101", (258, 772)),
        ("ffd8ffffffc0000b080010002001", (16, 32)),
        ("ffd8fff7000b080400030001", (1024, 768)),
        ("ff4fff51002f000000000208000001040000000800000004", (256, 512)),
        ("ffd8ffda", None),
        ("736f6d657468696e67", None),
    ],
)
def test_the_size_in_a_stream_is_found_behind_other_segments(stream, size):
    assert find_size(bytes.fromhex(stream)) == size


def test_the_decoders_are_in_the_extra():
    import configparser

    from tests.conftest import REPOSITORY

    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    assert "gdcm" in parser["options.extras_require"]["dicom"]
    assert "nibabel" in parser["options.extras_require"]["nifti"]


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    make_folder(tmp_path / "ct", make_dicom())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"DICOM files need pydicom: pip install 'huscf\[dicom\]'"):
        _ = make_module(tmp_path).domains


def drop_pixels(record):
    del record.PixelData


def cut_pixels(record):
    record.PixelData = record.PixelData[:50]


def lose_size(record):
    del record.Rows


def grow(record):
    record.Rows = record.Columns = 60_000


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (drop_pixels, "DICOM file without a picture"),
        (cut_pixels, "DICOM file cannot be decoded"),
        (lose_size, "DICOM file cannot be decoded"),
        (grow, r"DICOM picture of more than 2\^27 pixels"),
    ],
)
def test_damaged_files_are_named(tmp_path, spoil, reason):
    record = make_dicom()
    spoil(record)
    record.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(DataError, match=reason):
        read_picture(tmp_path / "a.dcm", 8, 1)


@pytest.mark.parametrize(
    ("frames", "expected"), [("first", [0]), ("middle", [2]), ("all", [0, 1, 2, 3, 4]), (2, [1, 3])]
)
def test_frames_are_chosen_by_option(tmp_path, frames, expected):
    values = np.repeat(np.arange(5, dtype=np.uint16), 64).reshape(5, 8, 8)
    make_folder(tmp_path / "ct", fill(make_dicom(), values))
    domain = make_module(tmp_path, frames=frames, window=(0.0, 255.0)).domains["ct"]
    assert domain.train_samples.unique().tolist() == expected
    assert len(domain.train_labels) + len(domain.test_labels) == 10 * len(expected)
    with pytest.raises(DataError, match=r"10 x DICOM file with several frames \(see frames\)"):
        _ = make_module(tmp_path).domains


@pytest.mark.parametrize("frame", [0, 1])
def test_scale_and_window_of_each_frame_are_followed(tmp_path, frame):
    Dataset = pydicom.Dataset
    record = fill(make_dicom(), np.full((2, 8, 8), 100, np.uint16))
    del record.RescaleSlope, record.RescaleIntercept
    groups = []
    for slope in (1, 2):
        scale, group = Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = slope, -50
        group.PixelValueTransformationSequence = [scale]
        groups.append(group)
    window, shared = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 100, 200, "LINEAR_EXACT"
    shared.FrameVOILUTSequence = [window]
    record.SharedFunctionalGroupsSequence = [shared]
    record.PerFrameFunctionalGroupsSequence = groups
    shown = show(tmp_path / "a.dcm", record, frame=frame)
    assert np.unique(shown).tolist() == [[64, 191][frame]]  # 50 and 150 of 0 to 200
    shown = show(tmp_path / "a.dcm", record, (0.0, 255.0), frame=frame)
    assert np.unique(shown).tolist() == [[50, 150][frame]]


def save_patients(folder, patients, per_patient=3):
    for position, patient in enumerate(patients):
        name = "ill" if position % 2 else "well"
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_patient):
            record = fill(make_dicom(), np.full((8, 8), position, np.uint16))
            if patient is not None:
                record.PatientID = patient
            record.save_as(folder / name / f"{position}-{number}.dcm", enforce_file_format=True)


def test_a_patient_is_on_one_side_and_with_one_client(tmp_path):
    save_patients(tmp_path / "ct", [f"P{number}" for number in range(12)])
    data = make_module(tmp_path, window=(0.0, 255.0), clients_per_domain=3)
    domain = data.domains["ct"]
    sides = [domain.test_samples, *(domain.train_samples[c.indices] for c in data.clients)]
    seen = [set(side[:, 0, 0, 0].tolist()) for side in sides]
    assert sum(map(len, seen)) == 12 == len(set.union(*seen))
    assert [len(side) for side in sides] == [3 * len(patients) for patients in seen]
    assert len(seen[0]) in (2, 3)
    text = str(data.make_manifest()) + str(domain.patients)
    assert not any(f"P{number}" in text for number in range(12))


def test_patients_are_hashed_and_those_of_two_hospitals_are_two(tmp_path):
    record = make_dicom()
    record.PatientID = " 4711 "
    record.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    record.IssuerOfPatientID = "north"
    record.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    first, second = find_patient(tmp_path / "a.dcm"), find_patient(tmp_path / "b.dcm")
    assert first != second and "4711" not in first + second and len(first) == 16
    (tmp_path / "c.dcm").write_bytes(b"nothing")
    assert find_patient(tmp_path / "c.dcm") == ""


@pytest.mark.parametrize("patient", ["ANONYMOUS", None, ""])
def test_a_name_that_all_patients_share_divides_nothing(tmp_path, patient):
    save_patients(tmp_path / "ct", [patient] * 6)
    domain = make_module(tmp_path, window=(0.0, 255.0)).domains["ct"]
    assert domain.patients is None
    assert len(domain.test_labels) == 2


def test_patients_can_be_divided_on_request(tmp_path):
    save_patients(tmp_path / "ct", [f"P{number}" for number in range(4)], per_patient=5)
    assert make_module(tmp_path).domains["ct"].patients is not None
    assert make_module(tmp_path, keep_patients=False).domains["ct"].patients is None


def test_a_file_is_described_by_its_header(tmp_path):
    record = fill(make_dicom(), np.zeros((3, 8, 6), np.uint16))
    record.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert describe_picture(tmp_path / "a.dcm") == "6 x 8, 16-bit MONOCHROME2, 3 frames"
