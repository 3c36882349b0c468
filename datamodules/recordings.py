"""Reads and writes wav files, and lists the layouts of public sets of spoken words."""

import wave as wave_file
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DataError
from .bad_data import BadInput, BadSampleError
from .log_mel import LogMel
from .sources import Source, SourceFile, shorten_path

#: What can be read; other recordings are named as bad input.
RECORDING_SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".opus"]
UNREADABLE_SUFFIXES = [".m4a", ".aac", ".wma"]

#: Recordings whose loudest sample is below this, -80 dB, hold nothing but a dead microphone.
_SILENCE = 1e-4

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_TEST_REPETITIONS = 5


def read_recording(path: Path, log_mel: LogMel) -> Tensor:
    """Read one recording, mixed down to mono, as a spectrogram.

    Args:
        path: The file.
        log_mel: Makes the spectrogram.

    Returns:
        (1, S, S) uint8.

    Raises:
        BadSampleError: Where the file is missing, damaged, cut off, empty or silent, or not finite.
    """
    import soundfile

    if not path.is_file():
        raise BadSampleError("file is missing")
    try:
        values, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        convert = "; convert it to wav" if path.suffix.lower() in UNREADABLE_SUFFIXES else ""
        raise BadSampleError(f"recording cannot be decoded{convert}") from error
    if len(values) < _declared_length(path):
        raise BadSampleError("recording is cut off")
    if not len(values):
        raise BadSampleError("recording of 0 seconds")
    wave = torch.from_numpy(values).mean(1)
    if not wave.isfinite().all():
        raise BadSampleError("NaN or infinite values")
    if (wave - wave.mean()).abs().max() < _SILENCE:
        raise BadSampleError("recording of silence")
    return log_mel(log_mel.fit_wave(wave, sample_rate).unsqueeze(0))[0]


def write_recording(path: Path, wave: Tensor, sample_rate: int) -> None:
    """Write one wave as a 16-bit wav file.

    Args:
        path: The file.
        wave: (T,) float, range [-1, 1].
        sample_rate: Hertz.
    """
    import soundfile

    soundfile.write(path, wave.numpy(), sample_rate, subtype="PCM_16")


def drop_mixed_rates(source: Source) -> Source:
    """Take out the files whose sample rate is not the most frequent one of the source.

    Files whose header cannot be read stay: reading them reports what is wrong.
    """
    rates = {file: _read_rate(file.path) for file in source.files}
    counts = Counter(rate for rate in rates.values() if rate)
    if len(counts) < 2:
        return source
    usual = counts.most_common(1)[0][0]
    odd = [file for file, rate in rates.items() if rate not in (0, usual)]
    bad = [
        BadInput(f"sample rate {rates[file]}, not {usual}", shorten_path(file.path, source.folder))
        for file in odd
    ]
    files = [file for file in source.files if file not in set(odd)]
    return replace(source, files=files, bad=source.bad + bad)


def _declared_length(path: Path) -> int:
    """Return how many samples the header of a PCM wav file promises, 0 where it does not say."""
    if path.suffix.lower() != ".wav":
        return 0
    try:
        with wave_file.open(str(path)) as file:
            is_stream = file.getnframes() * file.getnchannels() * file.getsampwidth() >= 1 << 31
            return 0 if is_stream else file.getnframes()
    except (wave_file.Error, EOFError, OSError):
        return 0


def _read_rate(path: Path) -> int:
    import soundfile

    try:
        return int(soundfile.info(path).samplerate)
    except (soundfile.SoundFileError, OSError):
        return 0


def list_fsdd(root: Path) -> Source:
    """List the Free Spoken Digit Dataset; recordings 0-4 of every speaker are its test split.

    Layout: free-spoken-digit-dataset/recordings/{digit}_{speaker}_{index}.wav
    """
    folder = root / "free-spoken-digit-dataset" / "recordings"
    return _list_by_name("fsdd", root, folder.glob("*.wav"), folder)


def list_audiomnist(root: Path) -> Source:
    """List AudioMNIST; it has no official split, repetitions 0-4 of every speaker are held out.

    Layout: AudioMNIST/data/{speaker}/{digit}_{speaker}_{repetition}.wav
    """
    folder = root / "AudioMNIST" / "data"
    return _list_by_name("audiomnist", root, folder.glob("*/*.wav"), folder)


def list_speech_commands(root: Path, words: Sequence[str]) -> Source:
    """List some words of Speech Commands; the split is its own, validation files are left out.

    Layout: SpeechCommands/speech_commands_v0.02/{word}/{speaker}_nohash_{number}.wav, with
    testing_list.txt and validation_list.txt beside the words.
    """
    folder = root / "SpeechCommands" / "speech_commands_v0.02"
    split = {name: _read_list(folder / f"{name}_list.txt") for name in ("testing", "validation")}
    files, bad = [], []
    for word in words:
        paths = sorted((folder / word).glob("*.wav"))
        if not paths:
            bad.append(BadInput("class folder without files", shorten_path(folder / word, root)))
        for path in paths:
            name = f"{word}/{path.name}"
            if name not in split["validation"]:
                speaker = path.stem.split("_")[0]
                files.append(SourceFile(path, word, speaker, name in split["testing"]))
    return _require_files(Source("speech_commands", root, files, tuple(words), bad), folder)


def _list_by_name(name: str, root: Path, paths: Iterable[Path], folder: Path) -> Source:
    files, bad = [], []
    for path in sorted(paths):
        digit, _, rest = path.stem.partition("_")
        speaker, _, index = rest.rpartition("_")
        if digit in tuple("0123456789") and speaker and index.isdecimal():
            is_test = int(index) < _TEST_REPETITIONS
            files.append(SourceFile(path, DIGITS[int(digit)], speaker, is_test))
        else:
            bad.append(BadInput("name is not digit_speaker_index", shorten_path(path, root)))
    return _require_files(Source(name, root, files, DIGITS, bad), folder)


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(f"no file {path}: it says which recordings are held out")
    return set(path.read_text().split())


def _require_files(source: Source, folder: Path) -> Source:
    if not source.files and not source.bad:
        raise DataError(
            f"{source.name}: no recordings in {folder}: unpack the set there, or set root or "
            "HUSCF_DATA to the folder above it"
        )
    return source
