"""Recordings as pipes, phones and stereo microphones leave them."""

import struct

import numpy as np
import pytest
import soundfile
import torch

from huscf.datamodules import LogMel
from huscf.datamodules.recordings import describe_recording, read_recording
from huscf.errors import DataError
from tests.datamodules.test_audio import make_tone

WAVE = (make_tone(500) * 32767).astype("<i2").tobytes()


def make_wav(riff=None, data=None, before=b"", content=WAVE, after=b""):
    """A wav file of 8 kHz and 16 bits; riff and data are the lengths that its header says."""
    fields = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    data = len(content) if data is None else data
    inner = b"WAVEfmt " + fields + before + b"data" + struct.pack("<I", data) + content + after
    return b"RIFF" + struct.pack("<I", len(inner) if riff is None else riff) + inner


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "right.wav").write_bytes(make_wav())
    return read_recording(tmp_path / "right.wav", LogMel())


LIST = b"LIST" + struct.pack("<I", 6) + b"INFOab"
ODD = b"note" + struct.pack("<I", 3) + b"abc\0"


@pytest.mark.parametrize("before", [b"", LIST, ODD])
@pytest.mark.parametrize(
    ("riff", "data"),
    [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0), (36, 0), (0x7FFFFFFF, 0x7FFFFFFF)],
)
def test_streamed_recordings_are_read_to_their_end(tmp_path, expected, riff, data, before):
    (tmp_path / "a.wav").write_bytes(make_wav(riff, data, before))
    assert torch.equal(read_recording(tmp_path / "a.wav", LogMel()), expected)


@pytest.mark.parametrize("after", [b"", LIST])
def test_a_recording_that_is_really_empty_says_so(tmp_path, after):
    (tmp_path / "a.wav").write_bytes(make_wav(content=b"", after=after))
    with pytest.raises(DataError, match="recording of 0 seconds"):
        read_recording(tmp_path / "a.wav", LogMel())


def test_a_streamed_au_file_is_read(tmp_path, expected):
    header = b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFFF, 3, 8000, 1)
    (tmp_path / "a.au").write_bytes(header + np.frombuffer(WAVE, "<i2").astype(">i2").tobytes())
    assert torch.equal(read_recording(tmp_path / "a.au", LogMel()), expected)


@pytest.mark.parametrize(
    "content", [b"RIFF", make_wav()[:20], make_wav()[:40], b"RIFF\0\0\0\0WAVEdata"]
)
def test_headers_that_end_too_early_are_named(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"recording (cannot be decoded|of 0 seconds)"):
        read_recording(tmp_path / "a.wav", LogMel())


@pytest.mark.parametrize("quieter", [1.0, 0.98, 0.9])
def test_channels_of_opposite_phase_do_not_cancel_out(tmp_path, expected, quieter):
    tone = make_tone(500)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, -quieter * tone], axis=1), 8000)
    shown = read_recording(tmp_path / "a.wav", LogMel())
    assert (shown.int() - expected.int()).abs().max() <= 2


def test_one_dead_channel_and_alike_channels_change_nothing(tmp_path, expected):
    tone = make_tone(500)
    for other in (0 * tone, tone):
        soundfile.write(tmp_path / "a.wav", np.stack([tone, other], axis=1), 8000)
        shown = read_recording(tmp_path / "a.wav", LogMel())
        assert (shown.int() - expected.int()).abs().max() <= 2


def test_different_channels_are_mixed(tmp_path):
    both = np.stack([make_tone(300), make_tone(2500)], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 8000)
    soundfile.write(tmp_path / "b.wav", both.mean(1), 8000)
    shown = [read_recording(tmp_path / f"{name}.wav", LogMel()).int() for name in "ab"]
    assert (shown[0] - shown[1]).abs().max() <= 2


def test_silence_in_both_channels_is_still_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((800, 2), np.float32), 8000)
    with pytest.raises(DataError, match="recording of silence"):
        read_recording(tmp_path / "a.wav", LogMel())


def test_a_recording_is_described_by_its_header(tmp_path):
    (tmp_path / "a.wav").write_bytes(make_wav())
    assert describe_recording(tmp_path / "a.wav") == "8000 Hz, 1 channel, PCM_16"
    (tmp_path / "b.wav").write_bytes(b"nothing")
    assert describe_recording(tmp_path / "b.wav") == "not readable"
