"""Every round's federation as data and as pictures: clusters, a map, weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from ..errors import check_complete, check_number
from ..federation import RoundDecision
from ..reporting.federation_charts import draw_last_round
from ..reporting.federation_history import (
    FederationRow,
    append_federation,
    describe_decision,
    write_federation,
)
from ..reporting.wandb_media import make_media, make_row_table
from ..training import RoundResult, SplitModule
from ..whole_files import write_bytes
from .base import RoundCallback
from .run_folder import RunFolder


class FederationLog(RoundCallback):
    """Writes federation.csv, a row per client and round, and federation/round-0001.png, ...

    A picture shows the cluster map (colour is the found cluster, marker the true domain) and the
    weights of all rounds so far. It goes to a W&B logger too, as every round's table does; other
    loggers are left alone.

    Args:
        first_rounds: So many first rounds have a picture each.
        every_n_rounds: After them every n-th round has one; 0 none. The last round always has.

    Attributes:
        rows: The rows of all rounds so far.
    """

    def __init__(self, first_rounds: int = 3, every_n_rounds: int = 5) -> None:
        check_number("federation_log.first_rounds", first_rounds)
        check_number("federation_log.every_n_rounds", every_n_rounds)
        self.first_rounds = first_rounds
        self.every_n_rounds = every_n_rounds
        self.rows: list[FederationRow] = []
        self._last_drawn = 0

    @classmethod
    def last_rows(cls, trainer: Trainer) -> dict[int, FederationRow]:
        """Return the last round's row of every client, {} where nothing was logged."""
        logs = [c for c in trainer.callbacks if isinstance(c, cls)]  # type: ignore[attr-defined]
        return {row.client: row for log in logs for row in log.last_round()}

    def last_round(self) -> list[FederationRow]:
        """Return the rows of the last round."""
        return [row for row in self.rows if row.round == self.rows[-1].round]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rounds before the checkpoint; the file may have later ones, or be missing."""
        assert isinstance(pl_module, SplitModule)
        folder = self._folder(trainer)
        if self.rows:
            write_federation(folder / "federation.csv", self.rows)
        self._last_drawn = pl_module.num_rounds

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Log the federation that has just taken place."""
        rows = self.describe_round(trainer, module, result.decision)
        append_federation(self._folder(trainer) / "federation.csv", rows)
        self.rows += rows
        _log_to_wandb(trainer, result.number, "clients", lambda: make_row_table(rows))
        if self.should_draw(result.number):
            self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last round, if it has no picture yet."""
        if self.rows and self.rows[-1].round > self._last_drawn:
            self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": [tuple(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the saved rows."""
        check_complete(state_dict, self.state_dict())
        self.rows = [FederationRow(*row) for row in state_dict["rows"]]

    def should_draw(self, num_rounds: int) -> bool:
        """Return whether the round with this number, from 1, has a picture even if not the last."""
        is_nth = self.every_n_rounds > 0 and num_rounds % self.every_n_rounds == 0
        return num_rounds <= self.first_rounds or is_nth

    def describe_round(
        self, trainer: Trainer, module: SplitModule, decision: RoundDecision
    ) -> list[FederationRow]:
        """Return one row per client; points lie as those of the last logged round."""
        domains = getattr(trainer.datamodule, "client_domains", {})  # type: ignore[attr-defined]
        sizes, before = module.client_sizes, self.last_round()
        return describe_decision(module.num_rounds, decision, domains, sizes, before)

    def _folder(self, trainer: Trainer) -> Path:
        folder = RunFolder.of(trainer, self).path
        assert folder is not None
        return folder

    def _draw(self, trainer: Trainer) -> None:
        number = self._last_drawn = self.rows[-1].round
        pictures = self._folder(trainer) / "federation"
        pictures.mkdir(exist_ok=True)
        path = pictures / f"round-{number:04d}.png"
        write_bytes(path, draw_last_round(self.rows))
        _log_to_wandb(trainer, number, "map", lambda: make_media(path))


def _log_to_wandb(trainer: Trainer, number: int, name: str, make: Callable[[], Any]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.log({"round": number, f"federation/{name}": make()})
