"""Which folders and CSV files of somebody's data are domains."""

from pathlib import Path

from ..datamodules.csv_listing import read_csv
from ..datamodules.paths import is_hidden
from ..datamodules.pictures import PICTURE_SUFFIXES, looks_like_picture
from ..datamodules.recordings import RECORDING_SUFFIXES, looks_like_recording
from ..errors import DataError, HuscfError

_SPLITS = {"train", "test"}
_MANY = 10  # folders in a folder, none with a name of the others': patients rather than classes


def find_sources(root: Path, is_audio: bool) -> dict[str, str]:
    """Return the domains of a folder: name -> CSV or folder, relative to it.

    A CSV with the columns path and label is a domain. A folder of class folders is one domain, a
    folder of such folders several. Folders whose files a CSV names are not looked at.

    Raises:
        HuscfError: Where there are neither, and how it should be.
    """
    found, listed = _find_tables(root)
    folders = [f for f in _list_folders(root) if f.name not in listed]
    if folders and not found and _are_classes(folders, is_audio):
        return {_name(root): "."}
    domains = [folder for folder in folders if _list_folders(folder)]
    found |= {folder.name: folder.name for folder in domains}
    if not found:
        raise HuscfError(
            f"--data {root}: no class folders, and no CSV with path and label: give every class a "
            f"folder with its files ({root.name}/CLASS/FILE), or every domain a folder of such "
            f"folders ({root.name}/DOMAIN/CLASS/FILE)"
        )
    return found


def _find_tables(root: Path) -> tuple[dict[str, str], set[str]]:
    """Return the CSV files that list data, and the first folders of the paths in them."""
    found: dict[str, str] = {}
    folders: set[str] = set()
    for path in sorted(root.iterdir()):
        if path.suffix.lower() not in (".csv", ".tsv") or is_hidden(path.name):
            continue
        try:
            files, _ = read_csv(path)
        except DataError:
            continue  # a table of something else
        found[path.stem] = path.name
        inside = [f.path for f in files if f.path.is_relative_to(root)]
        folders |= {each.relative_to(root).parts[0] for each in inside}
    return found, folders


def _are_classes(folders: list[Path], is_audio: bool) -> bool:
    """Return whether these folders of one folder are classes, or its halves train and test."""
    if {folder.name.lower() for folder in folders} >= _SPLITS:
        return True
    if any(_holds_data(folder, is_audio) for folder in folders):
        return True
    below = [{each.name for each in _list_folders(folder)} for folder in folders]
    are_apart = sum(map(len, below)) == len(set().union(*below))
    return len(folders) > 1 and are_apart and min(map(len, below)) > _MANY


def _holds_data(folder: Path, is_audio: bool) -> bool:
    suffixes = tuple(RECORDING_SUFFIXES if is_audio else PICTURE_SUFFIXES)
    looks_like_data = looks_like_recording if is_audio else looks_like_picture
    for path in folder.iterdir():
        if path.is_file() and not is_hidden(path.name):
            if path.name.lower().endswith(suffixes):
                return True
            with path.open("rb") as stream:
                if looks_like_data(stream.read(512)):
                    return True
    return False


def _list_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def _name(root: Path) -> str:
    return root.resolve().name or "data"
