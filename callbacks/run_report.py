"""Writes the run's page and the files behind it when a run ends."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..training import SplitModule
from .federation_log import FederationLog
from .run_folder import RunFolder


class RunReport(Callback):
    """Writes report.html, its charts, and clients.csv into the run's folder.

    Args:
        enabled: False leaves them out; `huscf report` writes the page later.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run without a folder."""
        if self.enabled:
            RunFolder.of(trainer, self)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files, then the page that shows them."""
        from ..reporting import RunRecord, write_clients, write_page

        assert isinstance(pl_module, SplitModule)
        if not self.enabled:
            return
        run = RunFolder.of(trainer, self)
        folder = run.path
        # Without the configuration, as of a run from Python, there is no page.
        if folder is None or run.config is None:
            return
        write_clients(folder / "clients.csv", self.describe_clients(trainer, pl_module))
        write_page(RunRecord.read(folder))

    def describe_clients(self, trainer: Trainer, module: SplitModule) -> list[dict[str, Any]]:
        """Return one record per client: cuts, traffic, and what the last round decided."""
        domains = getattr(trainer.datamodule, "client_domains", {})  # type: ignore[attr-defined]
        traffic = module.wire.traffic
        last_rows = FederationLog.last_rows(trainer)
        records = []
        for plan in module.plan.clients:
            client = plan.client_id
            row = last_rows.get(client)
            decided = {
                name: "" if row is None else getattr(row, name)
                for name in ("weight", "divergence", "map_x", "map_y")
            }
            records.append(
                {
                    "client": client,
                    "domain": domains.get(client, ""),
                    "profile": plan.profile,
                    "cuts": " ".join(map(str, plan.cuts.as_list())),
                    "num_samples": module.client_sizes[client],
                    "cluster": module.clusters[client],
                    **decided,
                    "uplink_mbytes": traffic.total(client, "uplink") / 1e6,
                    "downlink_mbytes": traffic.total(client, "downlink") / 1e6,
                    "dropped_steps": module.engine.num_dropped[client],
                }
            )
        return records
