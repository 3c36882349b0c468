"""Sample grids of sounds: a WAV beside the picture."""

import wave

import torch

from huscf.callbacks.sample_grid import write_sounds
from huscf.datamodules import LogMel


def test_sounds_follow_each_other_a_quarter_of_a_second_apart(tmp_path):
    spectrogram = LogMel(sample_rate=8000, duration_s=0.32, size=16)
    loud, silent = torch.ones(1, 1, 16, 16), -torch.ones(1, 1, 16, 16)
    path = tmp_path / "grid.wav"
    write_sounds(path, torch.cat([silent, loud]), spectrogram)
    with wave.open(str(path)) as file:
        assert file.getframerate() == 8000
        raw = file.readframes(file.getnframes())
    samples = torch.frombuffer(bytearray(raw), dtype=torch.int16).float().abs()
    assert len(samples) == 2 * (spectrogram.num_samples + 2000)
    first, second = samples.split(len(samples) // 2)
    assert first.max() < 30
    assert second[: spectrogram.num_samples].mean() > 300
    assert second[spectrogram.num_samples :].max() == 0
