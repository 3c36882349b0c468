"""Spoken words as log-mel spectrograms: public sets of digits, or your own recordings."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..errors import DataError
from .file_datamodule import FileDataModule
from .log_mel import LogMel
from .recordings import (
    DIGITS,
    RECORDING_SUFFIXES,
    UNREADABLE_SUFFIXES,
    describe_recording,
    drop_mixed_rates,
    list_audiomnist,
    list_fsdd,
    list_speech_commands,
    looks_like_recording,
    read_recording,
)
from .sources import Source, SourceFile


class AudioDataModule(FileDataModule):
    """Recordings as spectrograms of one channel; each is computed once and cached.

    Args:
        spectrogram: Sample rate, duration, size and loudness range of all samples; None is
            8 kHz, 0.64 s, 32 x 32 and 80 dB. It sets image_size and channels, too.
        mixed_rates: Accept different sample rates within a source: all are resampled. False
            counts files that differ from the source's most frequent rate as bad data.
        kwargs: As in FileDataModule and FederatedDataModule.
    """

    def __init__(
        self, spectrogram: LogMel | None = None, mixed_rates: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if self.image_size or self.channels:
            raise DataError("image_size and channels are the spectrogram's: set spectrogram.size")
        self.spectrogram: LogMel = spectrogram or LogMel()
        self.mixed_rates = mixed_rates

    @abstractmethod
    def list_recordings(self) -> list[Source]:
        """List the recordings of every domain."""

    def list_sources(self) -> list[Source]:
        """List the recordings whose sample rates are accepted."""
        sources = self.list_recordings()
        return sources if self.mixed_rates else [drop_mixed_rates(source) for source in sources]

    def read_sample(self, path: Path) -> Tensor:
        """Decode one recording to (1, S, S) uint8."""
        return read_recording(path, self.spectrogram)

    def describe_file(self, file: SourceFile) -> str:
        """Return rate and channels of the file."""
        return describe_recording(file.path)

    def explain(self) -> list[str]:
        """Return in sentences what is done to recordings."""
        made = self.spectrogram
        loudness = "scaled to the same peak" if made.normalize_peak else "as loud as they are"
        return [
            f"recordings are mixed to one channel, resampled to {made.sample_rate} Hz and cut or "
            f"padded to {made.duration_s} s, {loudness}",
            f"they become log-mel spectrograms, {made.size} x {made.size}, {made.range_db} dB deep",
            *super().explain(),
        ]

    def describe_reading(self) -> Mapping[str, Any]:
        """Return the settings of the spectrogram."""
        return asdict(self.spectrogram)


class SpokenDigitsDataModule(AudioDataModule):
    """Spoken digits of public sets, ten classes each; the speaker is the natural key.

    Folders below root: free-spoken-digit-dataset/recordings, AudioMNIST/data and
    SpeechCommands/speech_commands_v0.02.

    Args:
        datasets: Which sets; each is a domain. None is fsdd.
        words: The classes of speech_commands; None is its ten digits.
        kwargs: As in AudioDataModule, FileDataModule and FederatedDataModule.
    """

    def __init__(
        self,
        datasets: list[Literal["fsdd", "audiomnist", "speech_commands"]] | None = None,
        words: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.datasets = ["fsdd"] if datasets is None else datasets
        self.words = words or list(DIGITS)

    def list_recordings(self) -> list[Source]:
        """List the recordings of every set."""
        return [self._list(name, self.root.resolve()) for name in self.datasets]

    def _list(self, name: str, root: Path) -> Source:
        if name == "speech_commands":
            return list_speech_commands(root, self.words)
        return list_fsdd(root) if name == "fsdd" else list_audiomnist(root)


class AudioFolderDataModule(AudioDataModule):
    """Your own recordings (wav, flac, ogg, mp3, aiff, au, opus): a folder per class, or a CSV.

    The client column of a CSV (speaker, device) is the natural key for NaturalIdPartitioner.

    Args:
        sources: Folder or CSV file (path, label, optionally client, patient and split) of every
            domain, relative to root and below it, by the domain's name.
        classes: Allowed classes in order of label; None takes the sorted ones of each source.
        label_from: Of a CSV, another column than label for the class, or one finding of a label
            that lists several (A|B), told from "no <finding>".
        kwargs: As in AudioDataModule, FileDataModule and FederatedDataModule.
    """

    def __init__(
        self,
        sources: dict[str, str],
        classes: list[str] | None = None,
        label_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sources = sources
        self.classes = classes or []
        self.label_from = label_from

    def list_recordings(self) -> list[Source]:
        """List the recordings of every domain."""
        suffixes = [*RECORDING_SUFFIXES, *UNREADABLE_SUFFIXES]
        return self.list_inside_root(
            self.sources, suffixes, self.classes, looks_like_recording, self.label_from
        )
