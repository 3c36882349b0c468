"""Slices of NIfTI volumes: which, how they are turned, and what is black and white."""

import gzip
import struct
import sys

import numpy as np
import pytest

from huscf.datamodules import FolderDataModule
from huscf.datamodules.pictures import describe_picture, read_picture
from huscf.errors import DataError

nibabel = pytest.importorskip("nibabel")

SIDE = 12  # voxels


def save(path, values, codes="RAS", spacing=(1, 1, 1)):
    """Save a volume given in RAS in another order of axes."""
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    own = nibabel.orientations.axcodes2ornt(("R", "A", "S"))
    image = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]))
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(own, wanted)), path)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "ASR", "SPL", "PIR"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("axis", "bright", "corner"),
    [
        ("axial", np.s_[SIDE // 2 :, SIDE // 2 :, :], "right front"),
        ("coronal", np.s_[SIDE // 2 :, :, SIDE // 2 :], "right head"),
        ("sagittal", np.s_[:, SIDE // 2 :, SIDE // 2 :], "front head"),
    ],
)
def test_slices_are_turned_as_the_header_says(tmp_path, codes, ending, axis, bright, corner):
    values = np.zeros((SIDE,) * 3, np.int16)
    values[bright] = 100
    save(tmp_path / f"a{ending}", values, codes)
    shown = read_picture(tmp_path / f"a{ending}", SIDE, 1, frame=3, axis=axis)[0].numpy()
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[: SIDE // 2, : SIDE // 2] = 255  # up, and left in the picture
    assert np.array_equal(shown, expected), corner


@pytest.mark.parametrize(("axis", "place"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL"])
def test_slices_are_counted_from_left_back_and_feet(tmp_path, axis, place, codes):
    values = np.zeros((4, 5, 6), np.int16)
    np.moveaxis(values, place, 0)[1] = 100
    save(tmp_path / "a.nii", values, codes)
    for frame, expected in ((0, 0), (1, 255), (2, 0)):
        shown = read_picture(tmp_path / "a.nii", 4, 1, (0.0, 100.0), frame=frame, axis=axis)
        assert shown.unique().tolist() == [expected]


@pytest.mark.parametrize(
    ("window", "expected"),
    [((-1000.0, 1000.0), 51), (None, 0), ((-600.0, 0.0), 0), ((-9e3, -600.0), 255)],
)
def test_windows_are_in_the_units_of_the_volume(tmp_path, window, expected):
    values = np.full((4, 4, 2), -305, np.int16)
    values[..., 1] = 800
    save(tmp_path / "a.nii", values)
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = struct.pack("<ff", 2, 10)  # what is stored times 2, plus 10: -600 and 1610
    (tmp_path / "a.nii").write_bytes(raw)
    shown = read_picture(tmp_path / "a.nii", 4, 1, window, frame=0)
    assert shown.unique().tolist() == [expected]


def test_voxels_that_are_not_square_keep_the_bodys_proportions(tmp_path):
    values = np.zeros((10, 10, 5), np.int16)
    values[:, :, 2:] = 100
    save(tmp_path / "a.nii", values, spacing=(1, 1, 4))  # 10 x 10 x 20 mm
    shown = read_picture(tmp_path / "a.nii", 10, 1, frame=5, axis="coronal")[0].numpy()
    # The middle 10 of 20 mm; the lower 8 mm are black, of which 3 lie in the middle.
    assert (shown[:5] == 255).all() and (shown[-1] < 30).all()
    assert 6 <= (shown[:, 5] > 127).sum() <= 8


def make_folder(root, depth=7):
    for name, level in (("ill", 100), ("well", 200)):
        (root / "mri" / name).mkdir(parents=True)
        for number in range(5):
            values = np.zeros((8, 8, depth), np.int16) + level + np.arange(depth, dtype=np.int16)
            save(root / "mri" / name / f"{number}.nii.gz", values)


def make_module(root, **options):
    options = {"image_size": 8, "clients_per_domain": 2, "window": (0.0, 255.0)} | options
    return FolderDataModule({"mri": "mri"}, root=str(root), **options)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [("first", [0]), ("middle", [3]), ("all", list(range(7))), (1, [3]), (3, [1, 3, 5])],
)
def test_slices_are_chosen_by_option_and_keep_their_volumes_label(tmp_path, frames, expected):
    make_folder(tmp_path)
    data = make_module(tmp_path, frames=frames)
    domain = data.domains["mri"]
    for label, level in ((0, 100), (1, 200)):
        shown = domain.train_samples[domain.train_labels == label].unique().tolist()
        assert shown == [level + number for number in expected]
    assert len(domain.train_labels) == 8 * len(expected)
    assert len(domain.test_labels) == 2 * len(expected)


def test_volumes_need_to_be_told_which_slices(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(DataError, match=r"10 x volume with several slices \(see frames\)"):
        _ = make_module(tmp_path).domains
    message = r"0 usable files .*; left out: 10 x volume with several slices \(see frames\)"
    with pytest.warns(UserWarning), pytest.raises(DataError, match=message):
        _ = make_module(tmp_path, on_bad_data="skip").domains
    make_folder(tmp_path / "flat", depth=1)
    domain = make_module(tmp_path / "flat").domains["mri"]
    assert domain.train_samples.unique().tolist() == [100, 200]


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((4, 4, 4, 3), np.int16, "volume of 4 dimensions, not 3"),
        ((4,), np.int16, "volume of 1 dimensions, not 3"),
    ],
)
def test_what_is_no_volume_is_named(tmp_path, shape, dtype, reason):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, dtype), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match=reason):
        read_picture(tmp_path / "a.nii", 4, 1, frame=0)


def test_damaged_volumes_are_named(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, (8, 8, 8)).astype(np.int16)
    save(tmp_path / "a.nii", values)
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(whole[:600])
    with pytest.raises(DataError, match="volume cannot be decoded"):
        read_picture(tmp_path / "a.nii", 8, 1, frame=0)
    packed = gzip.compress(whole)
    (tmp_path / "b.nii.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="volume cannot be decoded"):
        read_picture(tmp_path / "b.nii.gz", 8, 1, frame=0)
    (tmp_path / "c.nii").write_bytes(whole[:42] + b"\x7f\x7f" * 3 + whole[48:])
    with pytest.raises(DataError, match=r"more than 2\^27 voxels|cannot be decoded"):
        read_picture(tmp_path / "c.nii", 8, 1, frame=0)
    nan = np.full((4, 4, 4), np.nan, np.float32)
    save(tmp_path / "d.nii", nan)
    with pytest.raises(DataError, match="NaN or infinite pixels"):
        read_picture(tmp_path / "d.nii", 4, 1, frame=0)


def test_without_nibabel_the_extra_is_named(tmp_path, monkeypatch):
    make_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(DataError, match=r"NIfTI volumes need nibabel: pip install 'huscf\[nifti\]"):
        _ = make_module(tmp_path).domains


def test_a_volume_is_described_by_its_header(tmp_path):
    save(tmp_path / "a.nii", np.zeros((4, 5, 6), np.int16))
    assert describe_picture(tmp_path / "a.nii") == "volume of 4 x 5 x 6, int16"
