"""Paths as people write them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import HuscfError

#: Longest name of a folder that is made of a name in data; four bytes a sign fit into 255.
MAX_FOLDER_NAME = 60
#: Names that Windows keeps for devices.
RESERVED = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)))
)


def expand_path(path: str | Path) -> Path:
    """Return the path with a leading ~ replaced by the home folder.

    Shells do so at the beginning of a word only, not in --output=~/x, and YAML never does.

    Raises:
        HuscfError: Where there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HuscfError(f"{path}: there is no such home folder") from error


def check_folder(output: Path) -> None:
    """Refuse a file to write whose folder is not there.

    Raises:
        HuscfError: Naming the file.
    """
    if not output.parent.is_dir():
        raise HuscfError(f"output {output}: the folder does not exist")


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Name an output where writing it fails.

    Raises:
        HuscfError: Naming the file and the reason.
    """
    try:
        yield
    except OSError as error:
        raise HuscfError(f"output {output}: cannot be written ({error.strerror})") from error


def make_folder_name(text: str) -> str:
    """Return the name of one folder on every system for any text, such as a name in data."""
    safe = "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in text)
    safe = safe[:MAX_FOLDER_NAME] or "_"
    return f"{safe}_" if safe.lower() in RESERVED else safe


def make_folder_names(texts: Iterable[str]) -> dict[str, str]:
    """Return different folders' names by text, also where a system ignores case."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for text in texts:
        safe = first = make_folder_name(text)
        number = 1
        while safe.casefold() in taken:
            number += 1
            safe = f"{first}-{number}"
        taken.add(safe.casefold())
        names[text] = safe
    return names
