"""Reads and writes wav files, and lists the layouts of public sets of spoken words."""

import io
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DataError
from .bad_data import BadInput, BadSampleError, PassingError
from .log_mel import LogMel
from .paths import shorten_path
from .sources import Source, SourceFile

#: What can be read; other recordings are named as bad input.
RECORDING_SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".opus"]
UNREADABLE_SUFFIXES = [".m4a", ".aac", ".wma"]

_FIRST_BYTES = (b"fLaC", b"OggS", b".snd", b"ID3", b"\xff\xfb", b"\xff\xf3")
_KNOWN_CHUNKS = (b"LIST", b"id3 ", b"ID3 ", b"fact", b"cue ", b"smpl", b"bext")

#: Bytes that headers of wav files promise, at least, where a program did not know how many come.
_ENDLESS = 0x7FFF0000

_PLAIN = (1, 3, 0xFFFE)  # formats of wav files whose samples have a fixed length

#: Channels whose mean is less than this part of the loudest one cancel each other out.
_CANCELLED = 0.1

#: Recordings whose loudest sample is below this, -80 dB, hold nothing but a dead microphone.
_SILENCE = 1e-4

#: Values of one recording, decoded: a small file of silence can be made to hold days.
MOST_VALUES = 1 << 28

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
    values, sample_rate = _decode(path)
    if len(values) < _declared_length(path):
        raise BadSampleError("recording is cut off")
    if not len(values):
        raise BadSampleError("recording of 0 seconds")
    if not values.isfinite().all():
        raise BadSampleError("NaN or infinite values")
    wave = _mix(values)
    if (wave - wave.mean()).abs().max() < _SILENCE:
        raise BadSampleError("recording of silence")
    return log_mel(log_mel.fit_wave(wave, sample_rate).unsqueeze(0))[0]


def looks_like_recording(head: bytes) -> bool:
    """Whether these first bytes of a file are those of a recording, whatever it is called."""
    is_wave = head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE"
    is_aiff = head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")
    return is_wave or is_aiff or head.startswith(_FIRST_BYTES)


def describe_recording(path: Path) -> str:
    """Return rate and channels of a file, as "8000 Hz, 1 channel, PCM_16"."""
    import soundfile

    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return "not readable"
    several = "s" if info.channels > 1 else ""
    return f"{info.samplerate} Hz, {info.channels} channel{several}, {info.subtype}"


def _decode(path: Path) -> tuple[Tensor, int]:
    """Return (T, C) float32 and the sample rate."""
    import soundfile

    is_unreadable = path.suffix.lower() in UNREADABLE_SUFFIXES
    try:
        if not path.is_file():
            raise BadSampleError("file is missing")
        with soundfile.SoundFile(_mend_stream(path) or path) as file:
            if file.frames * file.channels > MOST_VALUES:
                raise BadSampleError("recording of more than 2^28 values")
            values, sample_rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.SoundFileError as error:
        if is_unreadable:
            raise PassingError("recording cannot be decoded; convert it to wav") from error
        raise BadSampleError("recording cannot be decoded") from error
    except OSError as error:
        raise PassingError(f"file cannot be read ({error.strerror})") from error
    return torch.from_numpy(values), sample_rate


def _mix(values: Tensor) -> Tensor:
    """Return (T,), the mean of (T, C); where channels cancel each other out, the loudest one."""
    mean = values.mean(1)
    energy = (values - values.mean(0)).square().mean(0)
    if (mean - mean.mean()).square().mean() < _CANCELLED**2 * energy.max():
        return values[:, int(energy.argmax())].contiguous()
    return mean


def _mend_stream(path: Path) -> io.BytesIO | None:
    """Return a wav file whose header was never finished with one that says how long it is.

    Programs that write to a pipe leave the length at 0; other files need nothing, None.
    """
    content, declared, _ = _find_content(path)
    length = path.stat().st_size - content
    if not content or declared or length <= 0:
        return None
    whole = path.read_bytes()
    if whole[content : content + 4] in _KNOWN_CHUNKS:
        return None
    size, total = (struct.pack("<I", number) for number in (length, content + length - 8))
    return io.BytesIO(b"RIFF" + total + whole[8 : content - 4] + size + whole[content:])


def _find_content(path: Path) -> tuple[int, int, int]:
    """Return where the samples of a wav file begin, and their bytes in all and at one moment.

    In all are as many as the header promises; at one moment is 0 where that is no fixed number.
    All three are 0 for other files.
    """
    with path.open("rb") as stream:
        head = stream.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0, 0, 0
        width = 0
        while len(chunk := stream.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            start = stream.tell()
            if name == b"data":
                return start, size, width
            if name == b"fmt ":
                tag, width = struct.unpack("<H10xH", stream.read(14).ljust(14, b"\0"))
                width *= tag in _PLAIN
            stream.seek(start + size + size % 2)
    return 0, 0, 0


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
    """Return how many samples the header of a wav file promises, 0 where it does not say."""
    _, declared, width = _find_content(path)
    return declared // width if width and declared < _ENDLESS else 0


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
