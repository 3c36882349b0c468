"""Where data is on disk: home folders, names as they were typed, and what systems leave behind."""

import unicodedata
from pathlib import Path

from ..errors import DataError
from ..user_paths import expand_path

#: Files and folders that systems and tools make among a user's own, in lower case.
_LEFTOVERS = frozenset(
    (
        *("__macosx", ".ds_store", ".spotlight-v100", ".trashes", ".fseventsd", "icon\r"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "@__thumb", "#recycle", "#snapshot"),
        *(".ipynb_checkpoints", ".thumbnails", "lost+found", "__pycache__", "dicomdir"),
    )
)


def find_inside(folder: Path, path: str | Path) -> Path:
    """Return folder / path with links followed.

    Raises:
        DataError: Where that lies outside the folder.
    """
    resolved = FileFinder(folder).find(str(path)).resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise DataError(f"{path} lies outside the data folder {folder}")
    return resolved


def shorten_path(path: Path, folder: Path) -> str:
    """Return the path relative to the folder where it lies below it."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def normalize_name(name: str) -> str:
    """Return a name in composed form: Macs write the same letters decomposed."""
    return unicodedata.normalize("NFC", name)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name comes from a system or tool, not from the user."""
    return name.startswith("._") or name.lower() in _LEFTOVERS


def is_hidden(name: str) -> bool:
    """Whether a folder that is searched for data passes over this name."""
    return name.startswith(".") or is_leftover(name)


class FileFinder:
    """Finds the files that are meant by paths as people and programs write them.

    Args:
        folder: What paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, path: str) -> Path:
        r"""Return the path as it stands, if that exists, else what it comes to in other forms.

        The other forms: / for \, composed or decomposed letters, and small or capital ones where
        one name alone fits. Where nothing fits the path is returned as it stands.
        """
        plain = self.folder / expand_path(path)
        if _exists(plain):
            return plain
        found = self.folder
        for part in Path(path.replace("\\", "/")).parts:
            there = found / part if _exists(found / part) else self._find_alike(found, part)
            if there is None:
                return plain
            found = there
        return found

    def _find_alike(self, folder: Path, name: str) -> Path | None:
        if folder not in self._names:
            alike: dict[str, list[str]] = {}
            for entry in folder.iterdir() if folder.is_dir() else ():
                alike.setdefault(_fold(entry.name), []).append(entry.name)
            self._names[folder] = alike
        names = self._names[folder].get(_fold(name), [])
        return folder / names[0] if len(names) == 1 else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True  # reading it says what is wrong
    except OSError:
        return False


def _fold(name: str) -> str:
    return normalize_name(name).casefold()
