"""Paths as people write them."""

from pathlib import Path

from .errors import HuscfError


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
