"""A run's folder as values: everything that the page, the charts and a comparison read."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..bounded_files import MAX_YAML_BYTES, check_file, parse_yaml, read_bytes
from ..errors import HuscfError
from ..provenance import Entry, read_provenance
from ..split import CutPlan
from ..whole_files import unescape_cell, write_table
from .federation_history import FederationRow, read_federation

#: More blocks than a network has; charts draw each.
MAX_BLOCKS = 10_000

#: A table of many clients in many rounds is long.
MAX_TABLE_BYTES = 2**30

#: What reading a damaged file raises.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error, yaml.YAMLError)

Row = dict[str, float]
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class RunRecord:
    """What one run left behind.

    Args:
        folder: The run's folder.
        config: Its full configuration.
        plan: The cuts at the end of the run, with latency figures where a search made them.
        rows: One row a round; figures that were not measured in a round are missing.
        clients: One record per client: clients.csv, or the plan alone where that is missing or was
            not written whole.
        scores: The newest metrics.json of `huscf test`, {} where there is none.
        federation: What every round decided about every client: federation.csv.
        provenance: Software, machine and command of every start: provenance.json.
    """

    folder: Path
    config: dict[str, Any]
    plan: dict[str, Any]
    rows: list[Row]
    clients: list[dict[str, str]]
    scores: dict[str, Any] = field(default_factory=dict)
    federation: list[FederationRow] = field(default_factory=list)
    provenance: list[Entry] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | Path) -> "RunRecord":
        """Read a run's folder.

        Raises:
            HuscfError: Naming the folder and the file, where it is not a run's or is damaged.
        """
        folder = Path(folder)
        config = _load(folder / "config.yaml", _read_config)
        plans = [folder / "plan.yaml", *sorted(folder.glob("plan-round-*.yaml"))]
        plan = _load(plans[-1], _read_plan)
        tests = find_tests(folder)
        return cls(
            folder,
            config,
            plan,
            _load(folder / "metrics.csv", _read_rows),
            _load(folder / "clients.csv", _read_clients) or _clients_of(plan),
            _load(tests[max(tests)], _read_scores) if tests else {},
            _load(folder / "federation.csv", _read_federation),
            read_provenance(folder),
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def domains(self) -> list[str]:
        """Names of the domains, as far as scores or clients tell."""
        measured = [
            key.split("/")[1] for row in self.rows for key in row if key.startswith("eval/")
        ]
        return list(dict.fromkeys([*measured, *(c.get("domain", "") for c in self.clients)]))

    def last(self) -> Row:
        """Return the last value of every figure."""
        return {name: value for row in self.rows for name, value in row.items()}

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Return rounds and values of one figure, where it was measured."""
        points = [(row["round"], row[name]) for row in self.rows if name in row]
        return [x for x, _ in points], [y for _, y in points]

    def grids(self) -> list[Path]:
        """Return the last sample grid of every domain."""
        return self._list_samples("*-final.png")

    def earlier_grids(self) -> dict[int, list[Path]]:
        """Return the sample grids of every domain by earlier round, rounds ascending."""
        rounds: dict[int, list[Path]] = {}
        for path in self._list_samples("*-round-*.png"):
            number = path.stem.rsplit("-", 1)[1]
            if number.isdecimal():
                rounds.setdefault(int(number), []).append(path)
        return dict(sorted(rounds.items()))

    def sounds(self) -> list[Path]:
        """Return the last sounds of every domain."""
        return self._list_samples("*-final.wav")

    def _list_samples(self, pattern: str) -> list[Path]:
        """Return files of the run's samples; a link out of its folder is none of them."""
        found = sorted((self.folder / "samples").glob(pattern))
        for path in found:
            check_file(path, self.folder)
        return found


def find_tests(folder: Path) -> dict[int, Path]:
    """Return metrics.json as 1, metrics-2.json as 2, ...: copying may mix up the files' times."""
    return {
        int(found[1] or 1): path
        for path in folder.glob("metrics*.json")
        if (found := re.fullmatch(r"metrics(?:-(\d+))?\.json", path.name))
    }


def write_clients(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write one row per client; all records have the same keys."""
    write_table(path, list(records[0]), records)


def _load(path: Path, read: Callable[[Path], Loaded]) -> Loaded:
    """Read one of a run's files.

    Raises:
        HuscfError: Naming the file, where it is missing or damaged.
    """
    try:
        return read(path)
    except FileNotFoundError:
        raise HuscfError(f"{path.parent}: not a run's folder, {path} is missing") from None
    except HuscfError as error:
        if str(error).startswith(str(path)):
            raise
        raise HuscfError(f"{path}: cannot be read: {error}") from error
    except _DAMAGED as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise HuscfError(f"{path}: cannot be read: {reason}") from error


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_yaml(path)
    _check_keys(config, "model")
    model = config["model"]
    _check_keys(model)
    if "method" not in model:
        raise HuscfError(
            f"{path}: of a run of huscf before 0.2 (no model.method in it): show it with the "
            "version that wrote it"
        )
    # A server whose clients are at sites has no data, but may have said who takes part when.
    data = config.get("data")
    if isinstance(data, dict) and "class_path" not in data:
        config = {**config, "data": None}
    for section in (config.get("data") or "", model["method"]):
        if not isinstance(section, str):
            _check_keys(section, "class_path")
    return config


def _read_plan(path: Path) -> dict[str, Any]:
    plan = _read_yaml(path)
    _check_keys(plan)
    checked = CutPlan.from_dict(plan).to_dict()
    if max(checked["blocks"].values()) > MAX_BLOCKS:
        raise ValueError(f"no network has more than {MAX_BLOCKS} blocks")
    return {**plan, **checked}


def _read_yaml(path: Path) -> Any:
    return parse_yaml(read_bytes(path, path.parent, MAX_YAML_BYTES), path)


def _read_federation(path: Path) -> list[FederationRow]:
    check_file(path, path.parent, MAX_TABLE_BYTES)
    return read_federation(path)


def _read_scores(path: Path) -> dict[str, Any]:
    scores = json.loads(read_bytes(path, path.parent))
    _check_keys(scores, "domains")
    _check_keys(scores["domains"])
    for domain in scores["domains"].values():
        _check_keys(domain, "together")
        _check_keys(domain["together"])
    return scores


def _check_keys(values: Any, *keys: str) -> None:
    """Raise a ValueError where what was read is no mapping that has these keys."""
    if not isinstance(values, Mapping):
        raise ValueError(f"needs keys and values, not {type(values).__name__}")
    if missing := [key for key in keys if key not in values]:
        raise ValueError(f"no {missing[0]!r} in it")


def _read_rows(path: Path) -> list[Row]:
    rows = [_to_numbers(row) for row in _read_csv(path)]
    return [row for row in rows if "round" in row]


def _read_clients(path: Path) -> list[dict[str, str]]:
    clients = _read_csv(path)
    for client in clients:
        traffic = [client[name] for name in client if name and name.endswith("_mbytes")]
        # None is what a row lacks that was not written whole.
        if None in client.values() or "" in traffic:
            return []
        if not all(math.isfinite(float(value)) for value in traffic):
            raise ValueError(f"traffic is {', '.join(traffic)}")
    return clients


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    text = read_bytes(path, path.parent).decode()
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{k: unescape_cell(v) if isinstance(v, str) else v for k, v in r.items()} for r in rows]


def _to_numbers(row: dict[str, str]) -> Row:
    """Return the figures of a row; a diverged loss counts as missing."""
    numbers = {name: float(value) for name, value in row.items() if value not in ("", None)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _clients_of(plan: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"client": str(c["client"]), "profile": c["profile"], "cuts": " ".join(map(str, c["cuts"]))}
        for c in plan["clients"]
    ]
