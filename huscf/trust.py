"""What a checkpoint may name: huscf's own classes, and what the user trusts (docs/security.md)."""

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isclass, isfunction
from typing import Any, TypeGuard

import yaml
from jsonargparse import _common as jsonargparse_settings
from jsonargparse import set_parsing_settings

from .errors import CheckpointError, HuscfError

#: Packages whose public classes a checkpoint may name; no class in them acts when it is made.
OWN_PACKAGES = (
    "models",
    "methods",
    "split",
    "wire",
    "planning",
    "federation",
    "metrics",
    "datamodules",
    "callbacks",
)
#: Of these, the packages of whose functions the same is true.
OWN_FUNCTIONS = ("models", "federation")
#: More values than a configuration has, and deeper ones; a file of few bytes can hold more.
MAX_VALUES, MAX_DEPTH = 200_000, 50

#: Text with none of these is no YAML mapping or list, in which something could be named.
_YAML_SIGNS = re.compile(r"[{\[:\n!&]|^- ")


@dataclass(frozen=True)
class Trust:
    """What a checkpoint's configuration may name beside huscf's own public classes.

    Args:
        packages: Packages, modules or classes that the user trusts, by their import path.
        named: Import paths that the user's own configuration or command line names.
    """

    packages: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in self.packages:
            if not all(part.isidentifier() for part in name.split(".")):
                raise HuscfError(
                    f"--trust {name}: give the name of a package such as mine.networks"
                )
            if name.partition(".")[0] in ("huscf", "jsonargparse"):
                raise HuscfError(
                    f"--trust {name}: its own classes are known; others of it are none"
                )

    def accepts(self, path: str) -> bool:
        """Return whether a checkpoint may name a class or function."""
        if path in self.named or any(f"{path}.".startswith(f"{p}.") for p in self.packages):
            return True
        return _is_own(path)

    def check(self, values: Any, owner: str) -> None:
        """Raise a CheckpointError unless values are plain and name only what they may.

        Args:
            values: A configuration out of a checkpoint.
            owner: Where it is from, for messages.
        """
        for number, (key, value, depth) in enumerate(_walk(values)):
            if number > MAX_VALUES or depth > MAX_DEPTH:
                raise CheckpointError(f"{owner}: {key}: no configuration is so large or so deep")
            if reason := self._find_fault(key, value):
                raise CheckpointError(f"{owner}: {reason}")

    def _find_fault(self, key: str, value: Any) -> str:
        """Return what is wrong with a value at a dotted key, or ""."""
        last = key.rpartition(".")[2].rstrip("+")
        if last.startswith("__"):
            return f"{key}: no key of a configuration"
        if not isinstance(value, (str, int, float, list, tuple, Mapping, type(None))):
            return f"{key} is a {type(value).__name__}, no plain value"
        names_own = _is_dotted(value) and value.startswith("huscf.")
        if last != "class_path" and not names_own:
            return ""
        return "" if _is_dotted(value) and self.accepts(value) else refuse(value, key)

    def limit_imports(self) -> None:
        """Let the parser import only what a checkpoint may name or the user has named.

        The second line of defence, behind `check`. jsonargparse's list covers every import path
        that a value holds: class paths, functions, types, modules, in text and in files that values
        refer to. It tests where an object is defined too, so that what a module merely imports is
        refused. It does not cover defaults and annotations, which come from code. Lightning's own
        classes are the trainer's, whose section is never out of a checkpoint.
        """
        own = [f"huscf.{package}" for package in OWN_PACKAGES]
        named = {name.partition(".")[0] for name in self.named} - {"huscf", "jsonargparse"}
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=["lightning.pytorch", *own, *sorted(named), *self.packages],
        )


@contextmanager
def parsing(trust: Trust | None) -> Iterator[None]:
    """Parse configurations with the settings of this tool, and restore those of the process.

    A class named where any value is accepted is never instantiated: no annotation says that one is
    wanted there. Not in a run's own configuration either, so that what trains can be tested.

    Args:
        trust: What may be imported where a checkpoint's configuration is parsed; None is anything.
    """
    before = dict(jsonargparse_settings.parsing_settings)
    try:
        set_parsing_settings(instantiate_subclass_spec_in_any=False)
        if trust is not None:
            trust.limit_imports()
        yield
    finally:
        jsonargparse_settings.parsing_settings.update(before)


def find_names(values: Any) -> frozenset[str]:
    """Return all text in nested values that may be an import path."""
    texts = (value for _, value, _ in _walk(values) if isinstance(value, str))
    return frozenset(text for text in texts if _is_dotted(text))


def refuse(path: Any, key: str = "") -> str:
    """Return why what a checkpoint names is refused, and what to do."""
    where = f"{key} names" if key else "it names"
    if not _is_dotted(path):
        return f"{where} {path!r:.80}, no class of huscf"
    package = path.partition(".")[0]
    if package == "huscf":
        return f"{where} {path}, no public class of huscf that a checkpoint may name"
    return (
        f"{where} {path}, code outside huscf, which would run; "
        f"only if you know that code and trust it, add --trust {package}"
    )


def find_denied(message: str) -> str:
    """Return the import path that the parser refused, out of its message, or ""."""
    found = re.search(r"Importing '([\w.]+)' is not allowed", message)
    return found[1] if found else ""


def _walk(values: Any) -> Iterator[tuple[str, Any, int]]:
    """Yield dotted key, value and depth of every value, and of the values in text that is YAML."""
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        yield key, value, depth
        if depth > MAX_DEPTH:
            continue
        if isinstance(value, str) and _YAML_SIGNS.search(value):
            value = _read_yaml(value)
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{k}" if key else str(k), v, depth + 1) for k, v in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(key, v, depth + 1) for v in value]


def _is_dotted(value: Any) -> TypeGuard[str]:
    is_text = isinstance(value, str) and "." in value
    return is_text and all(part.isidentifier() for part in value.split("."))


def _read_yaml(text: str) -> Any:
    """Return what the parser would make of text, or None where it is no more than text."""
    try:
        return yaml.safe_load(text)
    except Exception:  # PyYAML lets through what its own tags raise, such as "!!int"
        return None


def _is_own(path: str) -> bool:
    """Return whether a path leads to a public class of huscf, or to a function that only computes.

    What huscf's modules import is not its own, and neither is what stands inside a class.
    """
    module_name, _, name = path.rpartition(".")
    parts = module_name.split(".")
    if len(parts) < 2 or parts[0] != "huscf" or parts[1] not in OWN_PACKAGES:
        return False
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except ImportError:
        return False
    package = importlib.import_module(f"huscf.{parts[1]}")
    own_name = str(getattr(found, "__name__", ""))
    is_exported = found is not None and getattr(package, own_name, None) is found
    is_defined_here = str(getattr(found, "__module__", "")).startswith("huscf.")
    is_allowed = isclass(found) or (isfunction(found) and parts[1] in OWN_FUNCTIONS)
    return is_exported and is_defined_here and is_allowed
