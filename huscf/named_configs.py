"""Configurations by name: a file of the user's, else one that comes with huscf."""

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from .errors import HuscfError
from .user_paths import expand_path

OPTIONS = ("--config", "-c")
_SUFFIXES = (".yaml", ".yml")
#: Characters that a configuration has which is given as text instead of as a file.
TEXT_SIGNS = frozenset("\n:{[")


def shipped_folder() -> Path:
    """Return the folder of the configurations that come with huscf."""
    spec = importlib.util.find_spec("huscf.configs")
    if spec is None or spec.origin is None:
        raise HuscfError("the configurations that come with huscf are missing: install it anew")
    return Path(spec.origin).parent


def list_shipped() -> dict[str, Path]:
    """Return the configurations that come with huscf, by name: quickstart, methods/fedgan, ..."""
    folder = shipped_folder()
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")
    }
    return dict(sorted(found.items(), key=lambda entry: ("/" in entry[0], entry[0])))


def name_all() -> str:
    """Return the names of all shipped configurations as a line, those of a folder in braces."""
    folders: dict[str, list[str]] = {}
    for name in list_shipped():
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder, []).append(last)
    own = folders.pop("", [])
    return ", ".join([*own, *(f"{key}/{{{', '.join(names)}}}" for key, names in folders.items())])


def find_config(given: str) -> str:
    """Return the path of the configuration that is meant.

    A file wins: of that very name, or with .yaml behind it. A shipped one may be named with
    configs/ before it and .yaml behind it, as in the repository.

    Args:
        given: Path, name, or a configuration as text, which is returned as it is.

    Raises:
        HuscfError: Where there is none, naming the likeliest and all.
    """
    if TEXT_SIGNS & set(given) or not given.strip():
        return given
    for path in (given, *(given + suffix for suffix in _SUFFIXES)):
        if expand_path(path).is_file():
            return path
    name, shipped = _short_name(given), list_shipped()
    if name in shipped:
        return str(shipped[name])
    place = expand_path(given)
    if place.exists() and not place.is_dir():
        return given  # a pipe
    raise HuscfError(
        f"config {given}: there is no such file, and none of that name comes with huscf"
        f"{_suggest(name, list(shipped))}; there are {name_all()}"
    )


def name_configs(arguments: Sequence[str]) -> list[str]:
    """Return a command's options with the path of every configuration in place of its name.

    Raises:
        HuscfError: As find_config.
    """
    found: list[str] = []
    for argument in arguments:
        option, mark, value = argument.partition("=")
        if mark and option in OPTIONS:
            found.append(f"{option}={find_config(value)}")
        elif found and found[-1] in OPTIONS and not argument.startswith("-"):
            found.append(find_config(argument))
        else:
            found.append(argument)
    return found


def _short_name(given: str) -> str:
    name = given.replace("\\", "/").removeprefix("./").removeprefix("configs/")
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _suggest(name: str, shipped: Sequence[str]) -> str:
    """Return the name that was perhaps meant, by its last part or in full."""
    own = {p.stem: p.name for suffix in _SUFFIXES for p in Path.cwd().glob(f"*{suffix}")}
    meant = {each.rpartition("/")[2]: each for each in reversed(shipped)} | own
    meant |= {each: each for each in shipped}
    near = difflib.get_close_matches(name, meant, n=1)
    return f"; did you mean {meant[near[0]]}?" if near else ""
