"""A sample set as files that others read: pictures or sounds, a table, an archive, an overview."""

import io
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..datamodules.log_mel import LogMel
from ..models import to_uint8
from ..user_paths import make_folder_name, make_folder_names
from ..whole_files import write_bytes, write_table, write_text
from .picture_grid import draw_picture_grid
from .players import Recording, render_players
from .sample_set import SampleSet

#: What manifest.csv says of a file; samples.npz has arrays of the same names.
COLUMNS = ("file", "domain", "cluster", "class", "labels", "client", "seed")
#: Samples of a class on a grid.
NUM_COLUMNS = 12
#: Players of a class on the page beside recordings.
NUM_PLAYERS = 4


def write_sample_set(
    drawn: SampleSet, folder: Path, spectrogram: LogMel | None = None, card: str = ""
) -> None:
    """Write every sample as PNG or WAV, manifest.csv, samples.npz and grids, for sound players too.

    A sample lies in <domain>/<class>, or <cluster>/<class> where domains are not known. Where the
    disk is full, or the user has enough of it, all of it is removed again.

    Args:
        drawn: What to write.
        folder: Made if it does not exist, else empty; see check_empty.
        spectrogram: How samples become sound, or None where they are pictures.
        card: Text of README.md; "" leaves it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_all(drawn, folder, spectrogram)
        if card:
            write_text(folder / "README.md", card)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(folder)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def name_groups(drawn: SampleSet) -> tuple[str, ...]:
    """Return for every sample the folder of its domain, or of its cluster where that is unknown."""
    texts = [
        name or f"cluster-{number}"
        for name, number in zip(drawn.domain, drawn.cluster.tolist(), strict=True)
    ]
    names = make_folder_names(sorted(set(texts)))
    return tuple(names[text] for text in texts)


def _write_all(drawn: SampleSet, folder: Path, spectrogram: LogMel | None) -> None:
    groups = name_groups(drawn)
    ending = "png" if spectrogram is None else "wav"
    files = [
        f"{group}/{_name_class(label, name)}/{index:06d}.{ending}"
        for index, (group, label, name) in enumerate(
            zip(groups, drawn.labels.tolist(), drawn.class_name, strict=True)
        )
    ]
    for place in dict.fromkeys(file.rpartition("/")[0] for file in files):
        (folder / place).mkdir(parents=True)
    pixels = to_uint8(drawn.samples)
    paths = [folder / file for file in files]
    if spectrogram is None:
        _write_pictures(pixels, paths)
    else:
        _write_sounds(spectrogram, pixels, paths)
    _write_tables(drawn, files, folder)
    _write_grids(drawn, groups, pixels, folder)
    if spectrogram is not None:
        write_text(folder / "index.html", render_players(_list_recordings(drawn, groups, files)))


def _name_class(label: int, name: str) -> str:
    """The label's number, and its name where that says more."""
    safe = make_folder_name(name)
    return str(label) if safe == str(label) else f"{label}-{safe}"


def _write_tables(drawn: SampleSet, files: Sequence[str], folder: Path) -> None:
    count = len(files)
    columns = {
        "file": np.array(files),
        "domain": np.array(drawn.domain),
        "cluster": drawn.cluster.numpy(),
        "class": np.array(drawn.class_name),
        "labels": drawn.labels.numpy(),
        "client": drawn.client.numpy(),
        "seed": np.full(count, drawn.seed),
    }
    _write_archive(folder / "samples.npz", {"samples": drawn.samples.numpy(), **columns})
    rows = ({name: columns[name][i].item() for name in COLUMNS} for i in range(count))
    write_table(folder / "manifest.csv", COLUMNS, rows)


def _write_archive(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as np.savez does, which has no room for one that is called "file"."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            # Members are of 1980, so equal samples give equal bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_grids(drawn: SampleSet, groups: Sequence[str], pixels: Tensor, folder: Path) -> None:
    """Write a grid for every domain or cluster, a row for every class."""
    for group in sorted(set(groups)):
        rows = _first_by_class(drawn, groups, group, NUM_COLUMNS)
        names = [drawn.class_name[own[0]] for own in rows]
        content = draw_picture_grid([pixels[own] for own in rows], names)
        write_bytes(folder / f"{group}.png", content)


def _first_by_class(
    drawn: SampleSet, groups: Sequence[str], group: str, limit: int
) -> list[list[int]]:
    """Return the first samples of every class of a group, in order of label."""
    found: dict[int, list[int]] = {}
    for index, label in enumerate(drawn.labels.tolist()):
        if groups[index] == group:
            found.setdefault(label, []).append(index)
    return [found[label][:limit] for label in sorted(found)]


def _list_recordings(
    drawn: SampleSet, groups: Sequence[str], files: Sequence[str]
) -> list[Recording]:
    return [
        Recording(group, drawn.class_name[index], int(drawn.client[index]), files[index])
        for group in sorted(set(groups))
        for own in _first_by_class(drawn, groups, group, NUM_PLAYERS)
        for index in own
    ]


def _write_pictures(pixels: Tensor, paths: Sequence[Path]) -> None:
    from PIL import Image

    for picture, path in zip(pixels.permute(0, 2, 3, 1).numpy(), paths, strict=True):
        grey = picture.shape[2] == 1
        Image.fromarray(picture[:, :, 0] if grey else picture).save(path)


def _write_sounds(spectrogram: LogMel, pixels: Tensor, paths: Sequence[Path]) -> None:
    import soundfile

    for chunk, names in zip(pixels.split(64), _split(paths, 64), strict=True):
        for wave, path in zip(spectrogram.invert(chunk).numpy(), names, strict=True):
            # 16 bit: a file of floats would carry the time of writing.
            content = io.BytesIO()  # soundfile's own error does not say that a disk is full
            soundfile.write(content, wave, spectrogram.sample_rate, "PCM_16", format="WAV")
            path.write_bytes(content.getvalue())


def _split(paths: Sequence[Path], size: int) -> list[Sequence[Path]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]
