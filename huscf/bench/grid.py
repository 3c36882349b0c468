"""What a bench file asks for, and the runs that it stands for."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..bounded_files import MAX_YAML_BYTES, parse_yaml, read_bytes
from ..errors import HuscfError
from ..named_configs import find_config
from ..nested_values import write_line
from ..privacy import AuditSettings

_KEYS = ("base", "methods", "scenarios", "seeds", "set", "grid", "output", "devices", "audit")

#: Options of `huscf audit` that a bench file may set.
_AUDIT_KEYS = frozenset(each.name for each in fields(AuditSettings))

#: Sections of a run's configuration, by which one is told from a bench file.
_RUN_KEYS = frozenset({"data", "model", "federation", "trainer", "seed_everything"})

#: What a bench sets itself, and what to do instead.
OWN_KEYS = {
    "seed_everything": "give seeds: or --seeds",
    "run.name": "name methods and scenarios",
    "trainer.default_root_dir": "give output: or --output",
    "ckpt_path": "give the same command again, and runs go on",
}

#: What tables call the only scenario where a bench file names none.
NO_SCENARIO = "-"


@dataclass(frozen=True)
class Variant:
    """A method or a scenario: configuration files and keys that come after the base's.

    Args:
        name: How tables call it.
        configs: Files, later ones win.
        keys: Dotted keys and their values.
    """

    name: str
    configs: tuple[str, ...] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Args:
        method: Name of the method.
        scenario: Name of the scenario.
        point: Keys of the grid and their values in this run.
        seed: Of the run.
        configs: Configuration files.
        keys: Dotted keys and their values, those of the point among them.
        audit: Options of `huscf audit`, which follows the run; None where nothing does.
        digest: Of its whole configuration, files included; None where nobody has read that.
    """

    method: str
    scenario: str
    point: tuple[tuple[str, Any], ...]
    seed: int
    configs: tuple[str, ...]
    keys: tuple[tuple[str, Any], ...]
    audit: tuple[str, ...] | None = None
    digest: str | None = None

    @property
    def variant(self) -> str:
        """Return the name of what differs in more than the seed; fit for a folder."""
        values = [f"{key.rpartition('.')[2]}={_write(value)}" for key, value in self.point]
        scenario = [self.scenario] if self.scenario != NO_SCENARIO else []
        return re.sub(r"[^\w.=+-]+", "_", "-".join([self.method, *scenario, *values]))

    @property
    def name(self) -> str:
        """Return the run's name."""
        return f"{self.variant}-seed{self.seed}"

    def options(self, output: Path) -> list[str]:
        """Return what follows `huscf fit`, without a checkpoint."""
        configs = [part for path in self.configs for part in ("--config", path)]
        keys = [f"--{key}={_write(value)}" for key, value in self.keys]
        own = [
            f"--seed_everything={self.seed}",
            f"--run.name={self.name}",
            f"--trainer.default_root_dir={output / 'runs'}",
        ]
        return [*configs, *keys, *own]


@dataclass(frozen=True)
class Grid:
    """What a bench file says.

    Args:
        base: Configuration files that every run has.
        methods: One run each, of every scenario.
        scenarios: Likewise.
        seeds: Likewise.
        keys: Dotted keys and their values of every run.
        points: Dotted keys, and the values of which each is tried with every other key's.
        output: Folder of runs, tables and page.
        devices: Devices file for simulated seconds, or None.
        options: Dotted keys and their values of every run, which win over all but points.
        audit: Options of `huscf audit`, which follows every run; None where nothing does.
    """

    base: tuple[str, ...]
    methods: tuple[Variant, ...]
    scenarios: tuple[Variant, ...] = (Variant(NO_SCENARIO),)
    seeds: tuple[int, ...] = (0,)
    keys: Mapping[str, Any] = field(default_factory=dict)
    points: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    output: Path = Path("runs/bench")
    devices: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    audit: tuple[str, ...] | None = None

    @classmethod
    def load(
        cls,
        paths: Sequence[Path],
        points: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        output: Path | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> "Grid":
        """Read bench files, later ones winning key by key; what is given replaces theirs.

        Configurations of runs among them are what every run has; alone they are one method, called
        as the last file.

        Args:
            paths: YAML files.
            points: "key=value,value" each, values as in a YAML list; added to the grid.
            seeds: In place of the files'.
            output: Likewise.
            keys: Dotted keys and their values of every run, which win over the files'.

        Raises:
            HuscfError: Naming file and key, where something is no bench file's.
        """
        values: dict[str, Any] = {}
        plain = []
        for path in paths:
            read = _read(path)
            if _RUN_KEYS & read.keys():
                plain.append(str(path))
            else:
                values |= _check_keys(read, path)
        owner = ", ".join(map(str, paths))
        if plain:
            values = {"base": [], "methods": {Path(plain[-1]).stem: {}}, **values}
            values["base"] = [*_list_paths(values["base"], f"{owner}: base"), *plain]
        for key in ("base", "methods"):
            if not values.get(key):
                raise HuscfError(f"{owner}: {key} is missing")
        grid = _read_keys(values.get("grid"), f"{owner}: grid")
        grid |= _read_keys(dict(map(_parse_point, points)), "--grid")
        for key, tried in grid.items():
            if not isinstance(tried, list) or not tried:
                raise HuscfError(f"{owner}: grid: {key} must be a list of values")
        folder = values.get("output") or str(Path("runs") / f"bench-{paths[-1].stem}")
        if not isinstance(folder, str):
            raise HuscfError(f"{owner}: output must be a path, got {folder!r:.60}")
        seeds_place = f"{owner}: seeds" if seeds is None else "--seeds"
        chosen = values.get("seeds", [0]) if seeds is None else list(seeds)
        return cls(
            _list_paths(values["base"], f"{owner}: base"),
            _read_variants(values["methods"], f"{owner}: methods"),
            _read_variants(values.get("scenarios") or {NO_SCENARIO: {}}, f"{owner}: scenarios"),
            _read_seeds(chosen, seeds_place),
            _read_keys(values.get("set"), f"{owner}: set"),
            grid,
            output or Path(folder),
            _find_devices(values.get("devices"), f"{owner}: devices"),
            _read_keys(keys, "options"),
            _read_audit(values["audit"], f"{owner}: audit") if "audit" in values else None,
        )

    def choose(
        self, methods: Sequence[str] | None = None, scenarios: Sequence[str] | None = None
    ) -> "Grid":
        """Return the grid of some methods and scenarios, in its own order; None keeps all.

        Raises:
            HuscfError: Naming one that the grid does not have.
        """
        return replace(
            self,
            methods=_choose(self.methods, methods, "--methods"),
            scenarios=_choose(self.scenarios, scenarios, "--scenarios"),
        )

    def list_cells(self) -> list[Cell]:
        """Return all runs: the first seed of everything first."""
        found = []
        for seed, scenario, method in itertools.product(self.seeds, self.scenarios, self.methods):
            for values in itertools.product(*self.points.values()):
                point = dict(zip(self.points, values, strict=True))
                keys = {**self.keys, **method.keys, **scenario.keys, **self.options, **point}
                configs = (*self.base, *method.configs, *scenario.configs)
                entry = method.name, scenario.name, tuple(point.items()), seed
                found.append(Cell(*entry, configs, tuple(keys.items()), self.audit))
        names = [cell.name for cell in found]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise HuscfError(f"bench: two runs would be called {repeated[0]}; name them apart")
        return found


def _choose(
    every: tuple[Variant, ...], names: Sequence[str] | None, option: str
) -> tuple[Variant, ...]:
    if names is None:
        return every
    known = [variant.name for variant in every]
    if unknown := [name for name in names if name not in known]:
        raise HuscfError(f"{option}: there is no {unknown[0]}; there are {', '.join(known)}")
    return tuple(variant for variant in every if variant.name in names)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_bytes(path, path.parent, MAX_YAML_BYTES), path)
    except FileNotFoundError:
        raise HuscfError(f"{path}: there is no such bench file") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise HuscfError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise HuscfError(f"{path}: a bench file maps {', '.join(_KEYS)} to values")
    return values


def _check_keys(values: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in values:
        if key not in _KEYS:
            raise HuscfError(f"{path}: unknown key {key}; known: {', '.join(_KEYS)}")
    return values


def _read_variants(values: Any, owner: str) -> tuple[Variant, ...]:
    if not isinstance(values, Mapping):
        raise HuscfError(f"{owner}: must map names to configs and set")
    found = []
    for name, entry in values.items():
        place = f"{owner}: {name}"
        if not isinstance(entry or {}, Mapping) or set(entry or {}) - {"configs", "set"}:
            raise HuscfError(f"{place}: must have configs, a list of files, or set, keys")
        own = entry or {}
        paths = _list_paths(own.get("configs") or [], f"{place}: configs")
        found.append(Variant(str(name), paths, _read_keys(own.get("set"), f"{place}: set")))
    return tuple(found)


def _list_paths(values: Any, owner: str) -> tuple[str, ...]:
    paths = [values] if isinstance(values, str) else values
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise HuscfError(f"{owner}: must be a list of configuration files")
    try:
        return tuple(map(find_config, paths))
    except HuscfError as error:
        raise HuscfError(f"{owner}: {error}") from None


def _find_devices(value: Any, owner: str) -> str | None:
    if not value:
        return None
    if not isinstance(value, str):
        raise HuscfError(f"{owner}: must be a devices file, got {value!r:.60}")
    return _list_paths(value, owner)[0]


def _read_keys(values: Any, owner: str) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise HuscfError(f"{owner}: must map keys of a configuration to values")
    for key in values:
        if key in OWN_KEYS:
            raise HuscfError(f"{owner}: {key} is the bench's own: {OWN_KEYS[key]}")
    return {str(key): value for key, value in values.items()}


def _read_seeds(values: Any, owner: str) -> tuple[int, ...]:
    if not isinstance(values, list) or not values:
        raise HuscfError(f"{owner} must be a list of whole numbers, got {values!r:.60}")
    for value in values:
        if type(value) is not int or not 0 <= value < 2**32:
            limits = f"from 0 to {2**32 - 1}"
            raise HuscfError(f"{owner} must be whole numbers {limits}, got {value!r:.60}")
    return tuple(dict.fromkeys(values))


def _read_audit(values: Any, owner: str) -> tuple[str, ...]:
    """Return options for the command line; {} stands for the defaults."""
    if not isinstance(values, Mapping) or set(values) - _AUDIT_KEYS:
        known = ", ".join(sorted(_AUDIT_KEYS))
        options = "options of huscf audit to numbers, or be {}"
        raise HuscfError(f"{owner}: must map {options}; known: {known}")
    try:
        AuditSettings(**values)
    except HuscfError as error:
        raise HuscfError(f"{owner}: {error}") from None
    return tuple(f"--{key}={value}" for key, value in values.items())


def _parse_point(text: str) -> tuple[str, list[Any]]:
    key, mark, values = text.partition("=")
    if not mark or not key or not values:
        raise HuscfError(f"--grid {text}: write key=value,value")
    try:
        return key, parse_yaml(f"[{values}]", f"--grid {key}")
    except (ValueError, yaml.YAMLError):
        raise HuscfError(
            f"--grid {text}: write key=value,value, the values as in a YAML list, such as 1,2 or "
            "[1, 2],{a: 1}; quote a value with signs of YAML"
        ) from None


def _write(value: Any) -> str:
    """Return a value as the command line takes it."""
    if isinstance(value, dict | list):
        return write_line(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
