"""Pictures, sounds and tables of a run in W&B's own types."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .run_record import RunRecord


def make_media(path: Path) -> Any:
    """Return a PNG as a wandb.Image, a WAV as a wandb.Audio."""
    import wandb

    return wandb.Audio(str(path)) if path.suffix == ".wav" else wandb.Image(str(path))


def make_tables(run: RunRecord) -> dict[str, Any]:
    """Return the plan, the clients (clusters, weights, places) and their traffic as tables."""
    plan = [[str(c["client"]), c["profile"], *c["cuts"]] for c in run.plan["clients"]]
    ends = [f"{network} {end}" for network in run.plan["blocks"] for end in ("head", "tail")]
    tables = {"plan": _make_table(("client", "profile", *ends), plan)}
    if run.clients and "uplink_mbytes" in run.clients[0]:
        columns = ("uplink_mbytes", "downlink_mbytes")
        traffic = [[c["client"], *(float(c[name]) for name in columns)] for c in run.clients]
        tables["clients"] = _make_table(list(run.clients[0]), [[*c.values()] for c in run.clients])
        tables["traffic_by_client"] = _make_table(("client", *columns), traffic)
    return tables


def make_row_table(rows: Sequence[NamedTuple]) -> Any:
    """Return named tuples of one kind, at least one, as a table."""
    return _make_table(rows[0]._fields, rows)


def _make_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    import wandb

    return wandb.Table(columns=[*columns], data=[[*row] for row in rows])
