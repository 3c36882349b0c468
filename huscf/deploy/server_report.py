"""What the server writes of a round: figures, clusters, and what each site sent."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..callbacks.run_folder import write_csv
from ..engines import StepResult
from ..engines.remote import RemoteEngine, Sessions
from ..reporting import RunRecord, describe_clients, write_clients, write_page
from ..reporting.federation_history import FederationRow, append_federation, describe_decision
from ..training import RoundResult


class ServerReport:
    """The tables of a run's folder.

    Args:
        folder: Of the run.
        roster: Clients by name of a site.

    Attributes:
        rows: Of metrics.csv.
        last_losses: Of the last step, by phase.
    """

    def __init__(self, folder: Path, roster: Mapping[str, tuple[int, ...]]) -> None:
        self.folder, self.roster = folder, roster
        self.rows: list[dict[str, float]] = []
        self.last_losses: dict[str, float] = {}
        self._placed: list[FederationRow] = []
        self._sums: dict[str, float] = {}
        self._site_bytes: dict[str, int] = {}
        self._num_steps, self._num_bytes, self._started = 0, 0, time.monotonic()

    def add(self, result: StepResult) -> None:
        """Take the losses of a step."""
        self.last_losses = result.losses
        for name, value in result.losses.items():
            key = f"train/{name}_loss"
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._num_steps += 1

    def write_round(
        self, result: RoundResult, epoch: int, step: int, engine: RemoteEngine, sessions: Sessions
    ) -> str:
        """Write a round's row, clusters and traffic; return it as one line.

        Args:
            result: The round.
            epoch: The last one, from 0.
            step: After so many steps.
            engine: Whose traffic is counted; its waiting times begin anew.
            sessions: The sites.
        """
        traffic = engine.wire.traffic.total()
        evaluation_s = engine.waited_s.pop("evaluation", 0.0)
        row: dict[str, float] = {
            "round": result.number,
            "epoch": epoch,
            "step": step,
            **{name: total / self._num_steps for name, total in self._sums.items()},
            **result.figures,
            "traffic/mbytes": (traffic - self._num_bytes) / 1e6,
            **self._count_by_site(sessions),
            "dropped_steps": sum(engine.num_dropped.values()),
            "refused_frames": sum(sessions.refused.values()),
            **{f"waited/{what}": s for what, s in engine.waited_s.items()},
            # Measuring is no training.
            "evaluation/seconds": evaluation_s,
            "seconds": time.monotonic() - self._started - evaluation_s,
        }
        self.rows.append(row)
        write_csv(self.folder / "metrics.csv", self.rows)
        self._write_sites(engine, sessions)
        names = {c: name for name, own in self.roster.items() for c in own}
        self._placed = describe_decision(
            result.number, result.decision, names, engine.client_sizes, self._placed
        )
        append_federation(self.folder / "federation.csv", self._placed)
        rows = {row.client: row for row in self._placed}
        write_clients(self.folder / "clients.csv", describe_clients(engine, names, rows))
        self._sums, self._num_steps, self._num_bytes = {}, 0, traffic
        self._started, engine.waited_s = time.monotonic(), {}
        losses = ", ".join(f"{n[6:]} {v:.3f}" for n, v in row.items() if n.startswith("train/"))
        count = len(set(result.decision.clusters.values()))
        spent = "".join(
            f", {whose} epsilon {row[f'privacy/{prefix}epsilon']:.3f} at delta "
            f"{row[f'privacy/{prefix}delta']:g}"
            for whose, prefix in (("records'", ""), ("clients'", "client_"))
            if f"privacy/{prefix}epsilon" in row
        )
        return (
            f"round {result.number} ended at step {step}: {losses}, {count} clusters, "
            f"{row['traffic/mbytes']:.1f} MB, {row['seconds']:.1f} s{spent}"
        )

    def write_page(self) -> Path:
        """Write report.html of what there is so far; return where it is."""
        return write_page(RunRecord.read(self.folder))

    def _count_by_site(self, sessions: Sessions) -> dict[str, float]:
        """Return what has crossed the network since the last round, both ways, by site."""
        sent = sessions.num_bytes
        now = {name: sent[name, "up"] + sent[name, "down"] for name in self.roster}
        before, self._site_bytes = self._site_bytes, now
        return {f"traffic/{n}_mbytes": (now[n] - before.get(n, 0)) / 1e6 for n in now}

    def _write_sites(self, engine: RemoteEngine, sessions: Sessions) -> None:
        """Write what each site has sent and got so far, and how often it was left out."""
        sent, refused = sessions.num_bytes, sessions.refused
        write_csv(
            self.folder / "sites.csv",
            [
                {
                    "site": name,  # type: ignore[dict-item]
                    "clients": " ".join(map(str, own)),  # type: ignore[dict-item]
                    "uplink_mbytes": sent[name, "up"] / 1e6,
                    "downlink_mbytes": sent[name, "down"] / 1e6,
                    "dropped_steps": sum(engine.num_dropped[c] for c in own),
                    "refused_frames": refused[name],
                }
                for name, own in self.roster.items()
            ],
        )

    def get_state(self) -> dict[str, Any]:
        """Return what a saved half keeps of it."""
        return {
            "rows": self.rows,
            "placed": [tuple(row) for row in self._placed],
            "sums": self._sums,
            "num_steps": self._num_steps,
            "num_bytes": self._num_bytes,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved half."""
        self.rows, self._sums = state["rows"], state["sums"]
        self._num_steps, self._num_bytes = state["num_steps"], state["num_bytes"]
        self._placed = [FederationRow(*row) for row in state["placed"]]


def read_figures(site: str, answer: Mapping[str, Any]) -> dict[str, float]:
    """Return a site's figures as columns eval/<site>/<figure>, what is none left out."""
    found: dict[str, float] = {}
    domains = answer.get("figures")
    for number, figures in enumerate(domains[:100] if isinstance(domains, list) else ()):
        place = site if number == 0 else f"{site}-{number + 1}"
        for name, value in list(figures.items())[:100] if isinstance(figures, dict) else ():
            if isinstance(name, str) and _FIGURE.fullmatch(name) and type(value) in (int, float):
                found[f"eval/{place}/{name}"] = float(value)
    return found


#: What figures are called.
_FIGURE = re.compile(r"[a-z][a-z0-9_@]{0,60}", re.IGNORECASE)
