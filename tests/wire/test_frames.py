"""Frames carry tensors as they are, and refuse all else."""

import random
import struct
import sys
import time
from collections import Counter

import msgpack
import pytest
import torch

from huscf.errors import HuscfError
from huscf.wire.frames import DTYPES, Frame, FrameError, TensorSpec, pack

SPECS = {"x": TensorSpec(torch.float32, (6, 4, 8, 8)), "t": TensorSpec(torch.int64, (6,))}


def tensors():
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 8, 8, generator=stream).contiguous(memory_format=torch.channels_last)
    return {"x": x, "t": torch.arange(6)}


def frame(header, described, body=b""):
    head = msgpack.packb({**header, "tensors": described})
    return struct.pack("<I", len(head)) + head + body


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_values_and_layout_arrive_as_they_were(dtype):
    given = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).to(dtype)
    layouts = {
        "rows": given,
        "channels_last": given.contiguous(memory_format=torch.channels_last),
        "transposed": given.transpose(0, 3),
        "expanded": given[:1].expand(7, 3, 4, 5),
        "scalar": given[0, 0, 0, 1],
        "empty": given[:0],
    }
    arrived = Frame(pack({"kind": "any", "seq": 3}, layouts))
    assert arrived.header == {"kind": "any", "seq": 3}
    expected = {n: TensorSpec(t.dtype, tuple(t.shape)) for n, t in layouts.items()}
    for name, tensor in arrived.take_tensors(expected).items():
        assert torch.equal(tensor, layouts[name]), name
        if name != "expanded":
            assert tensor.stride() == layouts[name].stride(), name


def test_floats_of_a_header_keep_every_bit():
    values = [0.1 + 0.2, 1e-308, float("inf")]
    assert Frame(pack({"losses": values})).header == {"losses": values}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: {"x": t["x"]}, "tensor t is missing"),
        (lambda t: {**t, "y": t["t"]}, "tensor 'y' is not expected"),
        (lambda t: {**t, "x": t["x"][:5]}, r"tensor x is \[5, 4, 8, 8\] float32, expected \[6, 4"),
        (lambda t: {**t, "x": t["x"].double()}, "float64, expected"),
        (lambda t: {**t, "x": t["x"].transpose(0, 1)}, r"\[4, 6, 8, 8\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_before_they_are_made(change, reason, monkeypatch):
    data = pack({"kind": "forward"}, change(tensors()))
    monkeypatch.setattr("huscf.wire.frames._make_tensor", None)
    with pytest.raises(FrameError, match=reason):
        Frame(data).take_tensors(SPECS)


def test_some_may_be_missing_where_that_is_allowed():
    found = Frame(pack({}, {"x": tensors()["x"]})).take_tensors(SPECS, optional=True)
    assert list(found) == ["x"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no length"),
        (struct.pack("<I", 2**31), "too long or cut off"),
        (struct.pack("<I", 3) + b"\xc1\xc1\xc1", "no msgpack"),
        (struct.pack("<I", 1) + b"\x01", "no map"),
        (struct.pack("<I", 1) + b"\x80", "lists no tensors"),
        (frame({}, [["x", "float32", [2], [0]]], bytes(7)), "cut off"),
        (frame({}, [["x", "float32", [2], [0]]], bytes(9)), "1 bytes too many"),
        (frame({}, [["x", "float32", [2**39, 2**39], [0, 1]]]), "cut off"),
        (frame({}, [["x", "object", [2], [0]]], bytes(8)), "type 'object'"),
        (frame({}, [["x", "float32", [-2], [0]]], bytes(8)), "no sizes"),
        (frame({}, [["x", "float32", [True], [0]]], bytes(4)), "no sizes"),
        (frame({}, [["x", "float32", [2], [1]]], bytes(8)), "no order"),
        (frame({}, [["x", "float32", [1] * 9, list(range(9))]], bytes(4)), "has no sizes"),
        (frame({}, [["x", "float32", [1], [0]]] * 2, bytes(8)), "repeats"),
        (frame({}, ["x"]), "not described"),
    ],
)
def test_malformed_frames_are_refused(data, reason):
    with pytest.raises(FrameError, match=reason):
        Frame(data)


def broken_frames(count, seed=0):
    """Random bytes, frames that were cut, lengthened, and frames with changed headers."""
    draw = random.Random(seed)
    whole = pack({"kind": "forward", "seq": 7, "client": 1}, tensors())
    (head,) = struct.unpack_from("<I", whole)
    for number in range(count):
        kind = number % 4
        if kind == 0:
            yield draw.randbytes(draw.randrange(200))
        elif kind == 1:
            yield whole[: draw.randrange(len(whole))]
        elif kind == 2:
            yield whole + draw.randbytes(draw.randrange(1, 50))
        else:
            changed = bytearray(whole)
            for _ in range(draw.randrange(1, 6)):
                changed[draw.randrange(4 + head)] = draw.randrange(256)
            yield bytes(changed)


def test_ten_thousand_broken_frames_are_refused_quickly():
    """Whatever arrives is refused by a FrameError, or is a frame whose tensors fit."""
    counts = Counter()
    started = time.perf_counter()
    for data in broken_frames(10_000):
        try:
            found = Frame(data).take_tensors(SPECS)
        except FrameError:
            counts["refused"] += 1
        else:
            counts["fit"] += 1
            assert {n: TensorSpec(t.dtype, tuple(t.shape)) for n, t in found.items()} == SPECS
    assert counts["refused"] + counts["fit"] == 10_000
    assert counts["refused"] > 9_000
    assert time.perf_counter() - started < 20


def test_a_compressed_frame_is_smaller_and_has_the_same_tensors():
    pytest.importorskip("zstandard")
    given = {"x": torch.zeros(64, 100).bfloat16(), "y": torch.arange(50), "none": torch.zeros(0, 3)}
    specs = {n: TensorSpec(t.dtype, tuple(t.shape)) for n, t in given.items()}
    whole, small = (pack({"kind": "x"}, given, c) for c in (None, "zstd"))
    assert len(small) < 0.1 * len(whole)
    found = Frame(small).take_tensors(specs)
    assert all(torch.equal(found[name], given[name]) for name in given)
    # What cannot be made smaller stays as it is.
    noise = {"x": torch.randint(0, 256, (5000,), dtype=torch.uint8)}
    assert pack({}, noise, "zstd") == pack({}, noise)
    assert Frame(pack({"a": 1}, {}, "zstd")).take_tensors({}) == {}


def test_a_compressed_frame_that_does_not_fit_is_refused_before_it_is_unpacked(monkeypatch):
    zstandard = pytest.importorskip("zstandard")

    def forge(content, sizes):
        header = {"tensors": [["x", "float32", sizes, list(range(len(sizes)))]], "zstd": True}
        head = msgpack.packb(header)
        return struct.pack("<I", len(head)) + head + content

    specs = {"x": TensorSpec(torch.float32, (10,))}
    right = zstandard.compress(bytes(40))
    assert torch.equal(Frame(forge(right, [10])).take_tensors(specs)["x"], torch.zeros(10))
    bomb = zstandard.compress(bytes(400_000_000))
    assert len(bomb) < 20_000
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(40))
    for content, sizes, reason in (
        (bomb, [10], "another size"),
        (unknown, [10], "another size"),
        (right[:-3], [10], "damaged|another size"),
        (b"no zstd at all", [10], "damaged|another size"),
        (b"", [10], "damaged|another size"),
        (bomb, [100_000_000], "expected"),
    ):
        with pytest.raises(FrameError, match=reason):
            Frame(forge(content, sizes)).take_tensors(specs)
    draw = random.Random(0)
    for _ in range(2000):
        changed = bytearray(forge(right, [10]))
        changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            found = Frame(bytes(changed)).take_tensors(specs)
        except FrameError:
            continue
        assert found["x"].shape == (10,)


def test_without_zstandard_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(HuscfError, match=r"pip install 'huscf\[deploy\]'"):
        pack({}, {"x": torch.zeros(10)}, "zstd")
