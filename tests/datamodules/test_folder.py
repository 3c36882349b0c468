import csv
import errno
import struct
import sys
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from huscf.datamodules import FolderDataModule, NaturalIdPartitioner
from huscf.datamodules.held_out import hold_out
from huscf.datamodules.pictures import read_picture
from huscf.datamodules.sources import SourceFile
from huscf.errors import DataError


def save_picture(path, value=100, size=(20, 20), dtype=np.uint8, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if channels == 1 else (*size, channels)
    Image.fromarray(np.full(shape, value, dtype)).save(path)


def make_clinic(folder, per_class=10):
    for name in ("ill", "well"):
        for number in range(per_class):
            save_picture(folder / name / f"{number}.png", 10 * number)


def make_module(root, source="clinic", **arguments):
    arguments = {"image_size": 16, "clients_per_domain": 2} | arguments
    return FolderDataModule({"clinic": source}, root=str(root), **arguments)


def write_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_a_folder_per_class_is_divided_and_held_out(tmp_path):
    make_clinic(tmp_path / "clinic")
    domain = make_module(tmp_path).domains["clinic"]
    assert domain.class_names == ("ill", "well")
    assert domain.train_samples.shape == (16, 1, 16, 16)
    assert torch.bincount(domain.test_labels).tolist() == [2, 2]
    assert set(domain.test_samples[:, 0, 0, 0].tolist()) == {40, 90}


@pytest.mark.parametrize(
    ("per_class", "fraction", "held_out"), [(10, 0.3, 3), (20, 0.45, 9), (4, 0.2, 1), (1, 0.2, 0)]
)
def test_as_many_are_held_out_as_asked_for(per_class, fraction, held_out):
    files = [SourceFile(Path(f"{name}{n}"), name) for name in "ab" for n in range(per_class)]
    marked = hold_out(files, fraction)
    assert Counter(f.class_name for f in marked if f.is_test) == {"a": held_out, "b": held_out} or (
        held_out == 0 and not any(f.is_test for f in marked)
    )


def test_sources_that_number_a_class_differently_are_refused(tmp_path):
    for name in ("ill", "well"):
        for number in range(5):
            save_picture(tmp_path / "north" / name / f"{number}.png", 10 * number)
    for number in range(5):
        save_picture(tmp_path / "south" / "well" / f"{number}.png", 10 * number)
    options = {"root": str(tmp_path), "image_size": 16, "clients_per_domain": 1}
    sources = {"north": "north", "south": "south"}
    with pytest.raises(
        DataError, match=r"label 0 is class ill in north and well in south.*\['ill', 'well'\]"
    ):
        _ = FolderDataModule(sources, **options).domains
    domains = FolderDataModule(sources, classes=["ill", "well"], **options).domains
    assert domains["south"].train_labels.unique().tolist() == [1]


def save_hospitals(root, **classes):
    for hospital, names in classes.items():
        for name in names:
            for number in range(5):
                save_picture(root / hospital / name / f"{number}.png", 10 * number)
    sources = {hospital: hospital for hospital in classes}
    return {"sources": sources, "root": str(root), "image_size": 16, "clients_per_domain": 1}


def test_two_diseases_of_one_label_are_refused_where_hospitals_share_a_class(tmp_path):
    options = save_hospitals(
        tmp_path, a=("normal", "pneumonia"), b=("normal",), c=("normal", "rare thing")
    )
    with pytest.raises(DataError) as refused:
        _ = FolderDataModule(**options).domains
    assert str(refused.value) == (
        "label 1 is class pneumonia in a and rare thing in c, which share class normal: number "
        "them with classes: ['normal', 'pneumonia', 'rare thing']"
    )
    names = ["normal", "pneumonia", "rare thing"]
    data = FolderDataModule(**options, classes=names)
    assert data.common_class_names == tuple(names)
    labels = {name: domain.train_labels.unique().tolist() for name, domain in data.domains.items()}
    assert labels == {"a": [0, 1], "b": [0], "c": [0, 2]}


def test_domains_that_share_no_class_are_numbered_each_by_itself(tmp_path):
    options = save_hospitals(tmp_path, digits=("one", "two"), clothing=("coat", "shirt"))
    domains = FolderDataModule(**options).domains
    assert [domain.class_names for domain in domains.values()] == [
        ("one", "two"),
        ("coat", "shirt"),
    ]
    assert all(d.train_labels.unique().tolist() == [0, 1] for d in domains.values())


def test_train_and_test_folders_are_the_split(tmp_path):
    make_clinic(tmp_path / "clinic" / "train", 4)
    make_clinic(tmp_path / "clinic" / "test", 3)
    domain = make_module(tmp_path).domains["clinic"]
    assert (len(domain.train_labels), len(domain.test_labels)) == (8, 6)


@pytest.mark.parametrize("names", [("Train", "TEST"), ("train", "Test")])
def test_the_split_folders_may_be_written_in_any_case(tmp_path, names):
    for name, count in zip(names, (4, 3), strict=True):
        make_clinic(tmp_path / "clinic" / name, count)
    domain = make_module(tmp_path).domains["clinic"]
    assert domain.class_names == ("ill", "well")
    assert (len(domain.train_labels), len(domain.test_labels)) == (8, 6)


def test_a_folder_beside_train_and_test_is_named_as_unused(tmp_path):
    for name in ("train", "test", "val"):
        make_clinic(tmp_path / "clinic" / name, 3)
    with pytest.warns(UserWarning, match="clinic: not used beside train and test: val$"):
        domain = make_module(tmp_path).domains["clinic"]
    assert (len(domain.train_labels), len(domain.test_labels)) == (6, 6)


@pytest.mark.parametrize("names", [("train", "val"), ("Testing", "Training"), ("train",)])
def test_halves_of_the_data_are_not_taken_for_classes(tmp_path, names):
    for name in names:
        make_clinic(tmp_path / "clinic" / name)
        save_picture(tmp_path / "flat" / name / "0.png")  # without class folders
    for source in ("clinic", "flat"):
        message = f"{source} has {', '.join(names)}, which are no classes: name the halves"
        with pytest.raises(DataError, match=message):
            _ = make_module(tmp_path, source).domains


def test_a_half_of_the_data_beside_classes_is_refused(tmp_path):
    make_clinic(tmp_path / "clinic")
    make_clinic(tmp_path / "clinic" / "Validation")
    with pytest.raises(DataError, match="clinic has Validation, which are no classes"):
        _ = make_module(tmp_path).domains


def test_a_class_of_vehicles_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        for number in range(5):
            save_picture(tmp_path / "clinic" / name / f"{number}.png")
    assert make_module(tmp_path).domains["clinic"].class_names == ("bus", "train")


def test_pictures_are_decoded_once_and_mapped_from_disk(tmp_path, monkeypatch):
    make_clinic(tmp_path / "clinic")
    first = make_module(tmp_path).domains["clinic"]
    monkeypatch.setattr("huscf.datamodules.folder.read_picture", None)  # would fail if called
    again = make_module(tmp_path).domains["clinic"]
    assert torch.equal(first.train_samples, again.train_samples)
    monkeypatch.undo()


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    make_clinic(tmp_path / "clinic")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write the cache .*set HUSCF_CACHE"):
        _ = make_module(tmp_path, cache_dir=str(tmp_path / "file")).domains


@pytest.mark.skipif(sys.platform != "linux", reason="space is reserved on Linux only")
def test_a_full_disk_says_so_before_the_decoding(tmp_path, monkeypatch):
    def find_the_disk_full(descriptor, start, length):
        assert (start, length) == (0, 128 + 20 * 16 * 16)  # the header, and 20 pictures
        raise OSError(errno.ENOSPC, "No space left on device")

    make_clinic(tmp_path / "clinic")
    monkeypatch.setattr("os.posix_fallocate", find_the_disk_full)
    with pytest.raises(DataError, match=r"cannot write the cache .*No space left.*HUSCF_CACHE"):
        _ = make_module(tmp_path, cache_dir=str(tmp_path / "cache")).domains
    assert not list((tmp_path / "cache").iterdir())


def test_a_changed_picture_is_decoded_anew(tmp_path):
    make_clinic(tmp_path / "clinic")
    cache = str(tmp_path / "cache")
    _ = make_module(tmp_path, cache_dir=cache).domains
    save_picture(tmp_path / "clinic" / "ill" / "0.png", 200, (30, 30))
    domain = make_module(tmp_path, cache_dir=cache).domains["clinic"]
    assert domain.train_samples[0, 0, 0, 0] == 200


DAMAGES = [
    ("samples.npy", lambda whole: whole[: len(whole) // 2]),
    ("samples.npy", lambda whole: whole[:40]),
    ("samples.npy", lambda whole: b""),
    ("samples.npy", lambda whole: whole.replace(b"(20, 1, 16, 16)", b"(19, 1, 16, 16)")),
    ("index.json", lambda whole: whole[:10]),
    ("index.json", lambda whole: b"[]"),
    ("index.json", lambda whole: whole.replace(b"19", b"20")),
    ("index.json", None),
]


def damage_cache(cache, name, spoil):
    (file,) = cache.glob(f"*/{name}")
    whole = file.read_bytes()
    file.unlink()
    if spoil:
        file.write_bytes(spoil(whole))


@pytest.mark.parametrize(("name", "spoil"), DAMAGES)
def test_a_damaged_cache_is_decoded_anew(tmp_path, name, spoil):
    make_clinic(tmp_path / "clinic")
    cache = tmp_path / "cache"
    first = make_module(tmp_path, cache_dir=str(cache)).domains["clinic"]
    damage_cache(cache, name, spoil)
    with pytest.warns(UserWarning, match=rf"cache {cache}/clinic-\w+ is damaged .* decoded anew$"):
        mended = make_module(tmp_path, cache_dir=str(cache)).domains["clinic"]
    again = make_module(tmp_path, cache_dir=str(cache)).domains["clinic"]  # without a warning
    for domain in (mended, again):
        assert torch.equal(domain.train_samples, first.train_samples)
        assert torch.equal(domain.test_labels, first.test_labels)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("is_damaged", [False, True])
def test_two_processes_may_fill_one_cache(tmp_path, monkeypatch, is_damaged):
    make_clinic(tmp_path / "clinic")
    module = make_module(tmp_path, cache_dir=str(tmp_path / "cache"))
    if is_damaged:
        expected = make_module(tmp_path, cache_dir=str(tmp_path / "cache")).domains["clinic"]
        damage_cache(tmp_path / "cache", "index.json", None)
    others = []

    def read_when_the_other_is_done(*arguments, **options):
        if not others:
            with monkeypatch.context() as other:
                other.setattr("os.getpid", lambda: 0)
                other.setattr("huscf.datamodules.folder.read_picture", read_picture)
                others.append(make_module(tmp_path, cache_dir=str(tmp_path / "cache")))
                assert others[0].domains
        return read_picture(*arguments, **options)

    monkeypatch.setattr("huscf.datamodules.folder.read_picture", read_when_the_other_is_done)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        own = module.domains["clinic"].train_samples
    assert len(caught) == 2 * is_damaged
    assert torch.equal(own, others[0].domains["clinic"].train_samples)
    assert not is_damaged or torch.equal(own, expected.train_samples)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_csv_brings_labels_clients_and_split(tmp_path):
    make_clinic(tmp_path / "pictures")
    rows = [
        {
            "path": f"pictures/{name}/{number}.png",
            "label": name,
            "client": f"h{number % 3}",
            "split": "test" if number == 9 else "train",
        }
        for name in ("well", "ill")
        for number in range(10)
    ]
    write_csv(tmp_path / "clinic.csv", rows)
    data = make_module(
        tmp_path, "clinic.csv", partitioner=NaturalIdPartitioner(), clients_per_domain=3
    )
    manifest = data.make_manifest()
    assert [entry["keys"] for entry in manifest["clients"]] == [["h0"], ["h1"], ["h2"]]
    assert len(data.domains["clinic"].test_labels) == 2
    assert data.domains["clinic"].class_names == ("ill", "well")


def test_sixteen_bit_keeps_its_depth_until_it_is_resized(tmp_path):
    for name, dtype in (("a.png", np.uint16), ("a.tiff", np.uint16)):
        save_picture(tmp_path / name, 4095, dtype=dtype)
        whole = read_picture(tmp_path / name, 8, 1)
        shown = read_picture(tmp_path / name, 8, 1, (0.0, 4095.0))
        assert whole.unique().tolist() == [16] and shown.unique().tolist() == [255]


def write_deep_png(path, pixel):
    """Write 8 x 8 pixels of 16 bits; Pillow writes 16-bit PNGs in plain grey only."""
    colour_type = {2: 4, 3: 2}[len(pixel)]  # PNG's numbers: grey with alpha, RGB
    rows = b"".join(b"\0" + np.array([pixel] * 8, ">u2").tobytes() for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )


@pytest.mark.parametrize("pixel", [(4000, 65535), (4000, 4000, 4000)])
def test_a_window_is_not_passed_over_where_sixteen_bits_were_reduced(tmp_path, pixel):
    write_deep_png(tmp_path / "a.png", pixel)
    assert read_picture(tmp_path / "a.png", 8, 1).unique().tolist() == [15]
    with pytest.raises(DataError, match="16-bit colour or transparency"):
        read_picture(tmp_path / "a.png", 8, 1, (0.0, 4095.0))


def test_of_a_phones_two_pictures_the_first_is_taken(tmp_path):
    first, second = (Image.new("RGB", (20, 20), (value,) * 3) for value in (200, 50))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert read_picture(tmp_path / "a.jpg", 8, 1).unique().tolist() == [200]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_eight_bit_formats_and_colours(tmp_path, name):
    save_picture(tmp_path / name, 100, (30, 20), channels=3)
    colour = read_picture(tmp_path / name, 16, 3)
    grey = read_picture(tmp_path / name, 16, 1)
    assert colour.shape == (3, 16, 16) and grey.shape == (1, 16, 16)
    assert abs(colour.float().mean() - 100) < 2 and abs(grey.float().mean() - 100) < 2


def test_the_middle_square_is_cut_out(tmp_path):
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read_picture(tmp_path / "wide.png", 10, 1).unique().tolist() == [255]


def make_dicom(kind="MONOCHROME2"):
    """A record of 8 x 8 values from -1000 in steps of 50."""
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    record = Dataset()
    record.file_meta = FileMetaDataset()
    record.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    record.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    record.file_meta.MediaStorageSOPInstanceUID = record.SOPInstanceUID = generate_uid()
    record.SOPClassUID = SecondaryCaptureImageStorage
    record.Rows = record.Columns = 8
    record.SamplesPerPixel, record.BitsAllocated, record.BitsStored = 1, 16, 12
    record.HighBit, record.PixelRepresentation = 11, 0
    record.RescaleSlope, record.RescaleIntercept = 1, -1000
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 50
    record.PixelData = pixels.tobytes()
    record.PhotometricInterpretation = kind
    return record


def show_dicom(path, record, window=None):
    import pydicom

    pydicom.dcmwrite(path, record, enforce_file_format=True)
    return read_picture(path, 8, 1, window)[0].flatten()


def test_dicom_is_windowed_and_inverted(tmp_path):
    plain = show_dicom(tmp_path / "plain.dcm", make_dicom())
    assert plain[0] == 0 and plain[-1] == 255
    negative = show_dicom(tmp_path / "negative.dcm", make_dicom("MONOCHROME1"))
    assert (negative.int() + plain.int() - 255).abs().max() <= 1
    windowed = show_dicom(tmp_path / "windowed.dcm", make_dicom(), (-1000.0, 0.0))
    assert (windowed[20:] == 255).all()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_dicom_shows_its_own_window_however_little_of_it_a_picture_fills(tmp_path, function):
    record = make_dicom()
    # The values reach from -1000 to 2150.
    record.WindowCenter, record.WindowWidth, record.VOILUTFunction = 1000, 8000, function
    shown = show_dicom(tmp_path / "a.dcm", record).double()
    values = torch.arange(64, dtype=torch.float64) * 50 - 1000
    expected = {
        "LINEAR": 255 * ((values - 999.5) / 7999 + 0.5),
        "LINEAR_EXACT": 255 * ((values - 1000) / 8000 + 0.5),
        "SIGMOID": 255 * torch.sigmoid(4 * (values - 1000) / 8000),
    }[function]
    assert (shown - expected).abs().max() <= 0.51
    assert shown.min() > 60 and shown.max() < 180


@pytest.mark.parametrize("left_empty", ["window", "width", "table"])
def test_a_dicom_window_that_says_nothing_is_none(tmp_path, left_empty):
    record = make_dicom()
    plain = show_dicom(tmp_path / "plain.dcm", record)
    if left_empty == "table":
        record.VOILUTSequence = []
    else:
        record.WindowCenter = 100 if left_empty == "width" else None
        record.WindowWidth = None
    assert torch.equal(show_dicom(tmp_path / "empty.dcm", record), plain)


def test_dicom_shows_its_own_look_up_table(tmp_path):
    from pydicom.dataset import Dataset

    record, table = make_dicom(), Dataset()
    record.RescaleIntercept = 0
    table.LUTDescriptor, table.LUTData = [64, 0, 16], [512 * n for n in range(64)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    record.VOILUTSequence = [table]
    pixels = np.minimum(np.arange(64, dtype=np.uint16), 63)
    record.PixelData = pixels.tobytes()
    shown = show_dicom(tmp_path / "a.dcm", record).double()
    expected = torch.arange(64, dtype=torch.float64) * 512 / 65535 * 255
    assert (shown - expected).abs().max() <= 0.51


def make_colour_dicom(kind, pixel, dtype=np.uint8, bits_stored=8):
    """A record of 8 x 8 equal pixels."""
    record, num_bits = make_dicom(kind), np.dtype(dtype).itemsize * 8
    del record.RescaleSlope, record.RescaleIntercept
    record.SamplesPerPixel, record.PlanarConfiguration = 3, 0
    record.BitsAllocated, record.BitsStored, record.HighBit = num_bits, bits_stored, bits_stored - 1
    record.PixelData = np.array([pixel] * 64, dtype).tobytes()
    return record


def show_colours(path, record):
    import pydicom

    pydicom.dcmwrite(path, record, enforce_file_format=True)
    return read_picture(path, 8, 3)[:, 0, 0].tolist()


@pytest.mark.parametrize(
    ("kind", "pixel", "dtype", "bits_stored", "expected"),
    [
        ("RGB", (200, 100, 10), np.uint8, 8, [200, 100, 10]),
        ("RGB", (40000, 20000, 300), np.uint16, 16, [156, 78, 1]),
        ("RGB", (4095, 2048, 0), np.uint16, 12, [255, 128, 0]),
        ("YBR_FULL", (120, 66, 185), np.uint8, 8, [200, 101, 10]),
    ],
)
def test_colour_dicom_is_shown_in_its_own_depth(
    tmp_path, kind, pixel, dtype, bits_stored, expected
):
    record = make_colour_dicom(kind, pixel, dtype, bits_stored)
    assert show_colours(tmp_path / "a.dcm", record) == expected


@pytest.mark.parametrize(("num_bits", "dtype", "scale"), [(8, np.uint8, 1), (16, np.uint16, 257)])
def test_dicom_palettes_are_looked_up(tmp_path, num_bits, dtype, scale):
    record = make_dicom("PALETTE COLOR")
    record.PixelData = np.full(64, 3, np.uint16).tobytes()
    for name, value in (("Red", 200), ("Green", 100), ("Blue", 10)):
        table = np.zeros(16, dtype)
        table[3] = value * scale
        setattr(record, f"{name}PaletteColorLookupTableDescriptor", [16, 0, num_bits])
        record[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(record, f"{name}PaletteColorLookupTableData", table.tobytes())
    assert show_colours(tmp_path / "a.dcm", record) == [200, 100, 10]
    del record.RedPaletteColorLookupTableData
    with pytest.raises(DataError, match="DICOM file cannot be decoded"):
        show_colours(tmp_path / "a.dcm", record)


def damage_pictures(folder):
    (folder / "ill" / "0.png").write_bytes(b"this is no picture")
    whole = (folder / "ill" / "1.png").read_bytes()
    (folder / "ill" / "2.png").write_bytes(whole[: len(whole) // 2])
    unfinite = Image.fromarray(np.full((9, 9), np.nan, np.float32))
    unfinite.save(folder / "ill" / "nan.tiff")
    pages = [Image.new("L", (9, 9)), Image.new("L", (9, 9))]
    pages[0].save(folder / "ill" / "pages.tiff", save_all=True, append_images=pages[1:])
    (folder / "none").mkdir()


def test_bad_pictures_are_counted_and_named(tmp_path):
    make_clinic(tmp_path / "clinic")
    damage_pictures(tmp_path / "clinic")
    with pytest.raises(DataError) as caught:
        _ = make_module(tmp_path, window=(0.0, 1.0)).domains
    message = str(caught.value)
    assert "5 bad inputs" in message and "\n" not in message
    assert "2 x picture cannot be decoded (clinic/ill/0.png, clinic/ill/2.png)" in message
    assert "1 x NaN or infinite pixels (clinic/ill/nan.tiff)" in message
    assert "1 x picture with several pages" in message
    assert "1 x class folder without files (clinic/none)" in message


def test_bad_pictures_can_be_skipped_also_from_the_cache(tmp_path):
    make_clinic(tmp_path / "clinic")
    damage_pictures(tmp_path / "clinic")
    for _ in range(2):
        with pytest.warns(UserWarning, match="5 bad inputs.*left out"):
            data = make_module(tmp_path, on_bad_data="skip")
            domain = data.domains["clinic"]
        assert len(domain.train_labels) + len(domain.test_labels) == 18
        assert len(data.make_manifest()["left_out"]["clinic"]) == 5
    with pytest.raises(DataError, match="5 bad inputs"):
        _ = make_module(tmp_path).domains


def test_a_csvs_split_may_be_written_in_any_case(tmp_path):
    make_clinic(tmp_path)
    rows = [
        {"path": f"ill/{n}.png", "label": "ill", "split": split}
        for n, split in enumerate(["Train", "TEST", "train", "Test"])
    ]
    write_csv(tmp_path / "clinic.csv", rows)
    domain = make_module(tmp_path, "clinic.csv").domains["clinic"]
    assert (len(domain.train_labels), len(domain.test_labels)) == (2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "pictures/ill/1.png"}, r"1 x duplicate path \(pictures/ill/1.png\)"),
        ({"path": "../secret.png"}, r"1 x path outside the data folder"),
        ({"path": "pictures/ill/99.png"}, r"1 x file is missing \(pictures/ill/99.png\)"),
        ({"path": "ä" * 128}, r"1 x path that no file can have \(line 2\)"),
        ({"label": "unknown"}, r"1 x label outside the classes \['ill', 'well'\]"),
        ({"label": ""}, r"1 x row without path or label \(line 2\)"),
        ({"client": ""}, r"1 x row without client \(line 2\)"),
        ({"split": "maybe"}, r"1 x split is neither train nor test \(line 2\)"),
        ({"split": ""}, r"1 x split is neither train nor test \(line 2\)"),
        ({"client": "lonely"}, r"1 x client key with one training sample \(lonely\)"),
    ],
)
def test_bad_csv_rows_are_named_then_fatal_or_skipped(tmp_path, change, message):
    root = tmp_path / "root"
    make_clinic(root / "pictures")
    save_picture(tmp_path / "secret.png")
    rows = [
        {"path": f"pictures/{c}/{n}.png", "label": c, "client": "a", "split": "train"}
        for c in ("ill", "well")
        for n in range(10)
    ]
    rows[9]["split"] = rows[19]["split"] = "test"
    write_csv(root / "clinic.csv", [rows[0] | change, *rows[1:]])
    arguments = {"classes": ["ill", "well"]}
    with pytest.raises(DataError, match=message):
        _ = make_module(root, "clinic.csv", **arguments).domains
    with pytest.warns(UserWarning, match=message):
        domain = make_module(root, "clinic.csv", on_bad_data="skip", **arguments).domains["clinic"]
    assert len(domain.train_labels) + len(domain.test_labels) == 19


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    make_clinic(tmp_path / "root" / "clinic")
    save_picture(tmp_path / "secret.png")
    (tmp_path / "root" / "clinic" / "ill" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"path outside the data folder \(clinic/ill/link.png\)"):
        _ = make_module(tmp_path / "root").domains


def test_sources_that_hold_nothing_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.csv").write_text("file,class\n")
    (tmp_path / "heading.csv").write_text("path,label\n")
    (tmp_path / "binary.csv").write_bytes(b"path,label\n\1\2\3,x\n")
    for source, message in (
        ("empty", "no class folders"),
        ("gone", "no folder or CSV file .*gone: set root or HUSCF_DATA"),
        ("heading.csv", "heading.csv has no rows"),
        ("binary.csv", "cannot be read as CSV"),
        ("wrong.csv", "needs the columns path and label"),
        ("..", "outside the data folder"),
    ):
        with pytest.raises(DataError, match=message):
            _ = make_module(tmp_path, source).domains


def test_nothing_usable_is_an_error_even_when_skipping(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        (tmp_path / "clinic" / name / "x.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="2 x picture cannot be decoded"),
        pytest.raises(DataError, match="0 usable files are too few"),
    ):
        _ = make_module(tmp_path, on_bad_data="skip").domains
