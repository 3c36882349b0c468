"""What a folder of somebody's data holds: domains, sizes, colours, and for how many clients."""

import re
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..datamodules import (
    AudioFolderDataModule,
    FileDataModule,
    FolderDataModule,
    LogMel,
    NaturalIdPartitioner,
    Source,
    SourceFile,
)
from ..datamodules.sources import check_numbering, list_classes
from ..errors import DataError, HuscfError
from ..user_paths import expand_path
from .layout import find_sources

_MOST_HEADERS = 300  # that are read to tell sizes
_LEAST = 16  # training samples of a client, where there are so many
_MOST_CLIENTS, _MOST_KEYS = 4, 8


@dataclass(frozen=True)
class Found:
    """What there is, as the template takes it.

    Args:
        root: The folder, as the user wrote it.
        sources: Folder or CSV of every domain, relative to root.
        options: Further arguments of the datamodule.
        notes: What was found, in words, by argument.
        data: The datamodule that read it; None where nobody has looked.
    """

    root: str
    sources: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    data: FileDataModule | None = None


def look(kind: str, folder: Path) -> Found:
    """Read a folder as a run would, and choose what a first run needs.

    Args:
        kind: folder, medical or audio.
        folder: The data.

    Raises:
        HuscfError: Where there is no such folder, or no data in it as class folders or CSV files.
    """
    root = expand_path(folder)
    if not root.is_dir():
        raise HuscfError(f"--data {folder}: there is no such folder")
    make = AudioFolderDataModule if kind == "audio" else FolderDataModule
    sources = find_sources(root, kind == "audio")
    fixed: dict[str, Any] = {"root": str(root), "sources": sources, "on_bad_data": "skip"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is left out is counted below
        first = make(**fixed)
        listed = first.list_sources()
        files = [file for source in listed for file in source.files]
        chosen, notes = _choose(first, files)
        chosen |= _number(listed)
        data, shares = _share_out(make, {**fixed, **_build(chosen)})
    chosen |= shares
    if count := sum(map(len, data.bad_data.values())):
        chosen["on_bad_data"] = "skip"
        notes["on_bad_data"] = f"{count} bad, see huscf check-data"
    endings = Counter(file.path.suffix.lower() or "without ending" for file in files)
    notes["root"] = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(6))
    shape = data.sample_shape
    notes["channels"] = "colour" if shape.channels == 3 else "grey"
    names = data.common_class_names
    every = {name for domain in data.domains.values() for name in domain.class_names}
    notes["classes"] = ", ".join(names) if names else f"{len(every)}, not alike everywhere"
    return Found(str(folder), sources, chosen, notes, data)


Choice = tuple[dict[str, Any], dict[str, str]]


def _choose(data: FileDataModule, files: Sequence[SourceFile]) -> Choice:
    """Return arguments of the datamodule that headers of files suggest, and why."""
    shown = files[:: max(1, -(-len(files) // _MOST_HEADERS))]
    if isinstance(data, AudioFolderDataModule):
        return _choose_spectrogram(file.path for file in shown)
    facts = [data.describe_file(file) for file in shown]
    sizes = Counter(fact.partition(",")[0] for fact in facts if " x " in fact)
    sides = [min(map(int, re.findall(r"\d+", size)[:2])) for size in sizes.elements()]
    side = int(statistics.median(sides)) if sides else 32
    chosen: dict[str, Any] = {"image_size": min(32, max(8, side // 4 * 4))}
    if any("frames" in fact for fact in facts) or any(size.count(" x ") > 1 for size in sizes):
        chosen["frames"] = "middle"
    most = ", ".join(size for size, _ in sizes.most_common(3))
    return chosen, {"image_size": most + ", ..." * (len(sizes) > 3)}


def _number(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Return all classes where sources that share some number them differently by themselves."""
    try:
        check_numbering(sources)
    except DataError:
        return {"classes": list_classes(sources)}
    return {}


def _choose_spectrogram(paths: Iterable[Path]) -> Choice:
    import soundfile

    infos = []
    for path in paths:
        with suppress(soundfile.SoundFileError, OSError):
            infos.append(soundfile.info(path))
    lengths = sorted(info.duration for info in infos) or [0.64]
    rates = Counter(info.samplerate for info in infos)
    most = lengths[int(0.9 * (len(lengths) - 1))]  # seconds that nine of ten have at most
    spectrogram = {
        "sample_rate": 16000 if rates and min(rates) >= 16000 else 8000,
        "duration_s": round(min(2.0, max(0.32, most)), 2),
        "size": 32,
    }
    notes = {
        "duration_s": f"{lengths[0]:.2f} to {lengths[-1]:.2f} s, nine of ten at most {most:.2f}",
        "sample_rate": ", ".join(f"{rate} Hz" for rate, _ in rates.most_common(3)),
    }
    return {"spectrogram": spectrogram, "mixed_rates": len(rates) > 1}, notes


def _build(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with the spectrogram as an object."""
    made = dict(options)
    if "spectrogram" in made:
        made["spectrogram"] = LogMel(**made["spectrogram"])
    return made


def _share_out(
    make: type[FileDataModule], options: dict[str, Any]
) -> tuple[FileDataModule, dict[str, Any]]:
    """Return the datamodule that has as many clients as the data has enough for."""
    first = make(**options)
    keys = [domain.keys for domain in first.domains.values()]
    if all(each is not None for each in keys):
        counts = [min(_MOST_KEYS, len(set(each))) for each in keys if each is not None]
        by_key: dict[str, Any] = {
            "clients_per_domain": counts,
            "partitioner": NaturalIdPartitioner(),
        }
        data = make(**options, **by_key)
        _ = data.clients
        return data, {"clients_per_domain": counts, "by_key": True}
    for count in range(_MOST_CLIENTS, 0, -1):
        data = make(**options, clients_per_domain=count)
        try:
            sizes = data.client_sizes.values()
        except DataError:
            if count == 1:
                raise
            continue
        if min(sizes) >= _LEAST or count <= 2:
            break
    return data, {"clients_per_domain": count}
