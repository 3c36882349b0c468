"""A run's folder as values: everything that the page, the charts and a comparison read."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import HuscfError
from .federation_history import FederationRow, read_federation

Row = dict[str, float]


@dataclass(frozen=True)
class RunRecord:
    """What one run left behind.

    Args:
        folder: The run's folder.
        config: Its full configuration.
        plan: The cuts at the end of the run, with latency figures where a search made them.
        rows: One row a round; figures that were not measured in a round are missing.
        clients: One record per client: clients.csv, or the plan alone where that is missing.
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
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            plans = [folder / "plan.yaml", *sorted(folder.glob("plan-round-*.yaml"))]
            plan = yaml.safe_load(plans[-1].read_text(encoding="utf-8"))
            rows = [_to_numbers(row) for row in _read_csv(folder / "metrics.csv")]
            clients = _read_csv(folder / "clients.csv") or _clients_of(plan)
            federation = read_federation(folder / "federation.csv")
            newest = max(folder.glob("metrics*.json"), key=_age, default=None)
            scores = json.loads(newest.read_text(encoding="utf-8")) if newest else {}
        except FileNotFoundError as error:
            raise HuscfError(f"{folder}: not a run's folder, {error.filename} is missing") from None
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise HuscfError(f"{folder}: the run's files cannot be read: {reason}") from error
        return cls(folder, config, plan, rows, clients, scores, federation)

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

    def earlier_grids(self) -> list[Path]:
        """Return the sample grids of earlier rounds, in order of rounds."""
        found = (self.folder / "samples").glob("*-round-*.png")
        return sorted(found, key=lambda path: path.stem.rsplit("-", 1)[1])

    def sounds(self) -> list[Path]:
        """Return the last sounds of every domain."""
        return sorted((self.folder / "samples").glob("*-final.wav"))


def write_clients(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write one row per client; all records have the same keys."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


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


def _age(path: Path) -> float:
    return path.stat().st_mtime
