"""What pictures of every kind look like once they are read: each value worked out by hand."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from huscf.datamodules import FolderDataModule
from huscf.datamodules.pictures import read_picture
from huscf.errors import DataError
from tests.datamodules.test_folder import make_module, write_deep_png

RED, GREEN = (200, 0, 0), (0, 180, 0)


def make_colour_clinic(folder, mode="RGB", ending="png"):
    for name, colour in (("ill", RED), ("well", GREEN)):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.new("RGB", (20, 20), colour)
            picture = picture if mode == "RGB" else picture.quantize(4)
            picture.save(folder / name / f"{number}.{ending}")


def write_tiff(path, values, photometric=1, sample_format=None, bits=None):
    """Write (H, W) values as one uncompressed strip; Pillow writes few of these kinds."""
    height, width = values.shape
    kinds = {"u": 1, "i": 2, "f": 3}
    bits = bits or values.dtype.itemsize * 8
    entries = [
        *((256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0)),
        *((277, 1), (278, height), (279, values.nbytes)),
        (339, sample_format or kinds[values.dtype.kind]),
    ]
    start = 8 + 2 + 12 * len(entries) + 4
    fields = b"".join(
        struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in entries
    )
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    path.write_bytes(header + fields + bytes(4) + values.astype(values.dtype).tobytes())


def read_value(path, *options, **more):
    """The one grey level of a picture."""
    shown = read_picture(path, 8, 1, *options, **more)
    assert len(shown.unique()) == 1
    return int(shown[0, 0, 0])


@pytest.mark.parametrize(("mode", "ending"), [("RGB", "png"), ("P", "gif"), ("RGB", "bmp")])
def test_colour_folders_stay_colour(tmp_path, mode, ending):
    make_colour_clinic(tmp_path / "clinic", mode, ending)
    domain = make_module(tmp_path).domains["clinic"]
    assert domain.train_samples.shape[1:] == (3, 16, 16)
    shown = {tuple(sample[:, 3, 3].tolist()) for sample in domain.train_samples}
    assert shown == {RED, GREEN}


def test_colour_can_be_made_grey(tmp_path):
    make_colour_clinic(tmp_path / "clinic")
    domain = make_module(tmp_path, channels=1).domains["clinic"]
    assert domain.train_samples.shape[1:] == (1, 16, 16)
    assert set(domain.train_samples.unique().tolist()) == {60, 106}  # .299 x 200, .587 x 180


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK"])
def test_grey_is_grey_however_it_was_stored(tmp_path, mode):
    for name in ("ill", "well"):
        (tmp_path / "xray" / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.new("L", (20, 20), 255 * (number % 2)).convert("RGB").convert(mode)
            ending = "tif" if mode == "CMYK" else "png"
            picture.save(tmp_path / "xray" / name / f"{number}.{ending}")
    domain = make_module(tmp_path, source="xray").domains["clinic"]
    assert domain.train_samples.shape[1:] == (1, 16, 16)
    assert set(domain.train_samples.unique().tolist()) == {0, 255}


def test_grey_stays_grey_beside_colour(tmp_path):
    make_colour_clinic(tmp_path / "skin")
    levels = {}
    for name in ("ill", "well"):
        (tmp_path / "xray" / name).mkdir(parents=True)
        for number in range(5):
            ramp = np.tile(np.linspace(0, 250 - number, 40).astype(np.uint8), (40, 1))
            Image.fromarray(np.dstack([ramp] * 3)).save(tmp_path / "xray" / name / f"{number}.jpg")
    options = {"root": str(tmp_path), "image_size": 16, "clients_per_domain": 1}
    data = FolderDataModule({"skin": "skin", "xray": "xray"}, **options)
    for name, domain in data.domains.items():
        assert domain.train_samples.shape[1:] == (3, 16, 16)
        levels[name] = domain.train_samples
    assert torch.equal(levels["xray"][:, 0], levels["xray"][:, 1])
    assert torch.equal(levels["xray"][:, 0], levels["xray"][:, 2])
    assert levels["xray"].max() > 200 and not torch.equal(
        levels["skin"][:, 0], levels["skin"][:, 1]
    )
    assert data.given_shapes == {"skin": (3, 16, 16), "xray": (1, 16, 16)}


def test_one_coloured_picture_makes_a_domain_colour_and_leaves_the_others_grey(tmp_path):
    for name in ("ill", "well"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (20, 20), 90).save(tmp_path / "clinic" / name / f"{number}.png")
    Image.new("RGB", (20, 20), RED).save(tmp_path / "clinic" / "ill" / "late.png")
    for _ in range(2):  # the second time from the cache
        domain = make_module(tmp_path).domains["clinic"]
        both = torch.cat([domain.train_samples, domain.test_samples])
        shown = sorted(tuple(sample[:, 3, 3].tolist()) for sample in both)
        assert shown == [(90, 90, 90)] * 10 + [RED]


@pytest.mark.parametrize("background", [0, 100, 255])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "grey key", "colour key", "GIF", "WebP"])
def test_transparency_shows_the_stated_background(tmp_path, kind, background):
    path = tmp_path / {"GIF": "a.gif", "WebP": "a.webp"}.get(kind, "a.png")
    hidden = (13, 200, 77)
    if kind in ("RGBA", "WebP"):
        Image.new("RGBA", (8, 8), (*hidden, 0)).save(
            path, **({"lossless": True} if kind == "WebP" else {})
        )
    elif kind == "LA":
        Image.new("LA", (8, 8), (200, 0)).save(path)
    elif kind in ("palette", "GIF"):
        picture = Image.new("P", (8, 8), 1)
        picture.putpalette([0, 0, 0, *hidden])
        picture.save(path, transparency=1)
    elif kind == "grey key":
        Image.new("L", (8, 8), 200).save(path, transparency=200)
    else:
        Image.new("RGB", (8, 8), hidden).save(path, transparency=hidden)
    assert read_value(path, background=background) == background


def test_half_transparency_is_composed(tmp_path):
    Image.new("RGBA", (8, 8), (200, 200, 200, 128)).save(tmp_path / "a.png")
    assert read_value(tmp_path / "a.png") == 100
    assert read_value(tmp_path / "a.png", background=255) == 227
    write_deep_png(tmp_path / "deep.png", (40000, 0))
    assert read_value(tmp_path / "deep.png", background=55) == 55


def test_a_transparent_key_in_sixteen_bits_shows_the_background(tmp_path):
    values = np.full((8, 8), 30000, np.uint16)
    values[:, 4:] = 500
    Image.fromarray(values).save(tmp_path / "a.png", transparency=500)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info.get("transparency") == 500
    shown = read_picture(tmp_path / "a.png", 8, 1, background=200)[0, 0].tolist()
    assert shown == [117] * 4 + [200] * 4


@pytest.mark.parametrize("background", [0, 90])
def test_a_domain_is_read_over_the_background_of_its_options(tmp_path, background):
    for name in ("ill", "well"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGBA", (9, 9), (9, 9, 9, 0)).save(
                tmp_path / "clinic" / name / f"{number}.png"
            )
    cache = str(tmp_path / "cache")
    domain = make_module(tmp_path, background=background, cache_dir=cache).domains["clinic"]
    assert domain.train_samples.unique().tolist() == [background]


@pytest.mark.parametrize(
    ("dtype", "value", "photometric", "window", "expected"),
    [
        (np.uint8, 51, 1, None, 51),
        (np.uint8, 51, 0, None, 204),
        (np.uint16, 13107, 1, None, 51),
        (np.uint16, 13107, 0, None, 204),
        (np.uint16, 819, 1, (0.0, 4095.0), 51),
        (np.uint16, 819, 0, (0.0, 4095.0), 204),
        (np.int16, -600, 1, (-1000.0, 1000.0), 51),
        (np.uint32, 3_000_000_000, 1, (0.0, 4_000_000_000.0), 191),
        (np.int32, -600_000, 1, (-1e6, 1e6), 51),
        (np.float32, 0.2, 1, (0.0, 1.0), 51),
    ],
)
def test_tiff_of_every_depth_and_sense(tmp_path, dtype, value, photometric, window, expected):
    write_tiff(tmp_path / "a.tif", np.full((8, 8), value, dtype), photometric)
    assert read_value(tmp_path / "a.tif", window) == expected


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (np.int8, "signed 8-bit pixels"),
        (np.int16, "signed pixels, which need a window"),
        (np.int32, "signed pixels, which need a window"),
        (np.uint32, "32-bit pixels, which need a window"),
        (np.float32, "float pixels, which need a window"),
        (np.float64, "picture cannot be decoded"),
    ],
)
def test_tiff_that_nobody_can_say_how_to_show_is_refused(tmp_path, dtype, reason):
    write_tiff(tmp_path / "a.tif", np.full((8, 8), 1, dtype))
    with pytest.raises(DataError, match=reason):
        read_picture(tmp_path / "a.tif", 8, 1)


@pytest.mark.parametrize(
    ("frames", "expected"), [("first", [0]), ("middle", [100]), (2, [50, 150])]
)
@pytest.mark.parametrize("ending", ["tif", "gif"])
def test_pages_are_chosen_by_option(tmp_path, frames, expected, ending):
    for name in ("ill", "well"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for number in range(5):
            pages = [Image.new("L", (9, 9), 50 * page) for page in range(4)]
            place = tmp_path / "clinic" / name / f"{number}.{ending}"
            pages[0].save(place, save_all=True, append_images=pages[1:])
    domain = make_module(tmp_path, frames=frames).domains["clinic"]
    assert domain.train_samples.unique().tolist() == expected
    assert len(domain.train_labels) + len(domain.test_labels) == 10 * len(expected)
    with pytest.raises(DataError, match=r"10 x picture with several pages \(see frames\)"):
        _ = make_module(tmp_path).domains


def test_all_pages_of_a_file_stay_together(tmp_path):
    for name in ("ill", "well"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for number in range(5):
            level = 20 * number + 100 * (name == "well")
            pages = [Image.new("L", (9, 9), level + page) for page in range(4)]
            place = tmp_path / "clinic" / name / f"{number}.tif"
            pages[0].save(place, save_all=True, append_images=pages[1:])
    data = make_module(tmp_path, frames="all")
    domain = data.domains["clinic"]
    assert (len(domain.train_labels), len(domain.test_labels)) == (32, 8)
    for samples in (domain.test_samples, *(domain.train_samples[c.indices] for c in data.clients)):
        levels = samples[:, 0, 0, 0].int()
        for level in levels.tolist():
            assert set(range(level // 20 * 20, level // 20 * 20 + 4)) <= set(levels.tolist())
