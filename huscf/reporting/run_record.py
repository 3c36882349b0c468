"""A run's folder as values: everything that the page, the charts and a comparison read."""

import csv
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..errors import HuscfError
from ..split import CutPlan
from .federation_history import FederationRow, read_federation

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
    """

    folder: Path
    config: dict[str, Any]
    plan: dict[str, Any]
    rows: list[Row]
    clients: list[dict[str, str]]
    scores: dict[str, Any] = field(default_factory=dict)
    federation: list[FederationRow] = field(default_factory=list)

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
            _load(folder / "federation.csv", read_federation),
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
        return sorted((self.folder / "samples").glob("*-final.png"))

    def earlier_grids(self) -> dict[int, list[Path]]:
        """Return the sample grids of every domain by earlier round, rounds ascending."""
        rounds: dict[int, list[Path]] = {}
        for path in sorted((self.folder / "samples").glob("*-round-*.png")):
            number = path.stem.rsplit("-", 1)[1]
            if number.isdecimal():
                rounds.setdefault(int(number), []).append(path)
        return dict(sorted(rounds.items()))

    def sounds(self) -> list[Path]:
        """Return the last sounds of every domain."""
        return sorted((self.folder / "samples").glob("*-final.wav"))


def find_tests(folder: Path) -> dict[int, Path]:
    """Return metrics.json as 1, metrics-2.json as 2, ...: copying may mix up the files' times."""
    return {
        int(found[1] or 1): path
        for path in folder.glob("metrics*.json")
        if (found := re.fullmatch(r"metrics(?:-(\d+))?\.json", path.name))
    }


def write_clients(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write one row per client; all records have the same keys."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def _load(path: Path, read: Callable[[Path], Loaded]) -> Loaded:
    """Read one of a run's files.

    Raises:
        HuscfError: Naming the file, where it is missing or damaged.
    """
    try:
        return read(path)
    except FileNotFoundError:
        raise HuscfError(f"{path.parent}: not a run's folder, {path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise HuscfError(f"{path}: cannot be read: {reason}") from error


def _read_config(path: Path) -> dict[str, Any]:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    _check_keys(config, "data", "model")
    model = config["model"]
    _check_keys(model, "generator", "discriminator")
    for section in (config["data"], model["generator"], model["discriminator"]):
        if not isinstance(section, str):
            _check_keys(section, "class_path")
    return config


def _read_plan(path: Path) -> dict[str, Any]:
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    _check_keys(plan)
    return {**plan, **CutPlan.from_dict(plan).to_dict()}


def _read_scores(path: Path) -> dict[str, Any]:
    scores = json.loads(path.read_text(encoding="utf-8"))
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
        for value in traffic:
            float(value)
    return clients


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _to_numbers(row: dict[str, str]) -> Row:
    """Return the figures of a row; a diverged loss counts as missing."""
    numbers = {name: float(value) for name, value in row.items() if value not in ("", None)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _clients_of(plan: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"client": str(c["client"]), "profile": c["profile"], "cuts": " ".join(map(str, c["cuts"]))}
        for c in plan["clients"]
    ]
