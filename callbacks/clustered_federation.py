"""Periodic federation inside the clusters that the server finds."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ..training import Federation, SplitModule
from .base import end_round, is_last_epoch
from .replanning import Replanning


class ClusteredFederation(Federation, Callback):
    """Every few epochs: find clusters, weigh their members, average their blocks.

    What happens stands in huscf.training.Federation, with all options; this says when.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse cuts under which the server cannot compare clients, and blocks it cannot copy."""
        assert isinstance(pl_module, SplitModule)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, Replanning):
                self.check_replanning(callback.every_n_rounds)
        self.begin(pl_module)
        self.check_budget()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let the server see a round's first batches under the reference blocks."""
        assert isinstance(pl_module, SplitModule)
        self.observe_batch(pl_module, batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, average, tell the others."""
        assert isinstance(pl_module, SplitModule)
        ends_round = self.should_federate(trainer.current_epoch)
        if ends_round and self.is_last_round():
            trainer.should_stop = True
        is_last = is_last_epoch(trainer)
        if not (ends_round or is_last):
            return
        domains = getattr(trainer.datamodule, "client_domains", None)  # type: ignore[attr-defined]
        result = self.end_round(pl_module, is_last, domains)
        for line in result.warnings:
            rank_zero_warn(line)
        end_round(trainer, pl_module, result)
