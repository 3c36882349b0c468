"""Files out of a folder that may be anybody's: no larger than expected, and no link out of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import HuscfError

MAX_TEXT_BYTES = 64 * 2**20
MAX_YAML_BYTES = 8 * 2**20
#: A few lines of YAML can refer to each other so often that they stand for billions of values.
MAX_YAML_VALUES = 2_000_000


def check_file(path: Path, folder: Path, max_bytes: int = MAX_TEXT_BYTES) -> None:
    """Refuse a file that lies outside of a folder by links, is a pipe or device, or is too large.

    Raises:
        HuscfError: Naming the path.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise HuscfError(f"{path}: a link out of {folder}, which is not followed")
    if not path.exists():
        return
    if not path.is_file():
        raise HuscfError(f"{path}: no file")
    if path.stat().st_size > max_bytes:
        raise HuscfError(f"{path}: larger than {max_bytes / 2**20:g} MiB, which no such file is")


def read_bytes(path: Path, folder: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a file of a folder.

    Raises:
        HuscfError: As check_file.
        OSError: Where it cannot be read.
    """
    check_file(path, folder, max_bytes)
    return path.read_bytes()


def parse_yaml(text: bytes | str, owner: Path | str) -> Any:
    """Return the plain values of YAML.

    Raises:
        HuscfError: Naming the file or option, where its aliases stand for too much or it is nested
            too deep.
        yaml.YAMLError: Where it is not YAML.
    """
    too_much = f"{owner}: its values refer to each other too often, or are nested too deep"
    try:
        values = yaml.safe_load(text)
    except RecursionError:
        raise HuscfError(too_much) from None
    waiting, number = [values], 0
    while waiting:
        number += 1
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        if number + len(waiting) > MAX_YAML_VALUES:
            raise HuscfError(too_much)
    return values
