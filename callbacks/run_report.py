"""Writes the run's page and the files behind it when a run ends."""

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
        from ..reporting import RunRecord, describe_clients, write_clients, write_page

        assert isinstance(pl_module, SplitModule)
        if not self.enabled:
            return
        run = RunFolder.of(trainer, self)
        folder = run.path
        # Without the configuration, as of a run from Python, there is no page.
        if folder is None or run.config is None:
            return
        domains = getattr(trainer.datamodule, "client_domains", {})  # type: ignore[attr-defined]
        records = describe_clients(pl_module.engine, domains, FederationLog.last_rows(trainer))
        write_clients(folder / "clients.csv", records)
        write_page(RunRecord.read(folder))
