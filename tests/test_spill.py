"""Tensors put by in a file come back as they were, and go on into another file."""

import contextlib
import io
import mmap
from pathlib import Path

import pytest
import torch

from huscf import spill
from huscf.spill import SparingFile, Spill

TENSORS = [
    torch.randn(3, 4),
    torch.randn(4, 3).t(),
    torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    torch.tensor(5),
    torch.zeros(0, 3),
    torch.tensor([True, False, True]),
    torch.randn(7).bfloat16(),
    torch.randn(50, 50)[::2, ::3],
]


def put_by(tensors):
    taken = Spill()
    for tensor in tensors:
        taken.add(tensor)
    return taken.show()


def test_tensors_come_back_with_type_shape_and_layout():
    for given, shown in zip(TENSORS, put_by(TENSORS), strict=True):
        assert shown.dtype == given.dtype
        assert torch.equal(shown, given)
    for place in (1, 2):
        assert put_by(TENSORS)[place].stride() == TENSORS[place].stride()
    assert put_by([]) == []


def test_equal_tensors_share_a_place_and_others_do_not():
    one = torch.randn(4, 4)
    first, second, turned, other = put_by([one, one.clone(), one.t(), one.double()])
    assert first.data_ptr() == second.data_ptr()
    assert len({t.data_ptr() for t in (first, turned, other)}) == 3


def test_what_is_shown_is_written_whole_though_its_memory_is_let_go(monkeypatch):
    dropped = []
    monkeypatch.setattr(spill, "PORTION", 1000)
    monkeypatch.setattr(spill, "_let_go", lambda: dropped.append(1) or let_go())
    shown = put_by(TENSORS)
    file = io.BytesIO()
    torch.save(shown, SparingFile(file))
    file.seek(0)
    assert len(dropped) > 1
    for given, read in zip(TENSORS, torch.load(file, weights_only=True), strict=True):
        assert torch.equal(given, read)


let_go = spill._let_go


def test_the_file_goes_with_the_tensors():
    shown = put_by(TENSORS)
    assert [type(mapped) for mapped in spill._maps] == [mmap.mmap]
    del shown
    assert not list(spill._maps)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("count", [4, 100_000])
def test_a_full_disk_names_the_folder_for_temporary_files(monkeypatch, count):
    full = Path("/dev/full").open("wb")  # noqa: SIM115 (closing it fails)
    monkeypatch.setattr(spill.tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(OSError, match="No space left") as caught:
        put_by([torch.ones(count)])
    assert "TMPDIR" in caught.value.filename
    with contextlib.suppress(OSError):
        full.close()
