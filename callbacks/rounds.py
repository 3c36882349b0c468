"""The checkpoint of every round, and after which training stops."""

from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from ..errors import check_number
from ..training import SplitModule
from .base import RoundCallback, RoundResult


class RoundEarlyStopping(EarlyStopping, RoundCallback):
    """Stops after a round whose figure has not improved for some rounds.

    Lightning's own looks after every epoch. Between rounds it would count the last round's figure
    again, and a stop there would leave steps that belong to no round.

    Args:
        monitor: A column of metrics.csv. Rounds without it, as without evaluation, do not count.
        patience: Rounds without improvement after which training stops.
        mode: Whether smaller ("min") or larger ("max") is better.
        min_delta: The least change that counts as improvement.
    """

    def __init__(
        self,
        monitor: str,
        patience: int = 3,
        mode: Literal["min", "max"] = "min",
        min_delta: float = 0.0,
    ) -> None:
        check_number("early stopping: patience", patience)
        check_number("early stopping: min_delta", min_delta)
        super().__init__(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=True)
        self._names: list[str] = []
        self._there: list[str] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for a round's end."""

    def on_round_logged(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Look at the figure of a round that has just ended."""
        self._names = [name for name in result.figures if name == self.monitor] or self._names
        if self.monitor in result.figures:
            super().on_train_epoch_end(trainer, module)
        elif not self._names:
            self._there = list(result.figures)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn where there was nothing to look at."""
        if not self._names and self._there:
            rank_zero_warn(
                f"early stopping: no round has {self.monitor}; there are {', '.join(self._there)}"
            )


class RoundCheckpoint(ModelCheckpoint):
    """Saves a run at every round's end; the last two rounds are kept, and last.ckpt."""

    def __init__(self) -> None:
        super().__init__(
            filename="round-{round:04.0f}",
            monitor="round",
            mode="max",
            save_top_k=2,
            save_last=True,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
            # A run that goes on in its folder replaces last.ckpt, however its path was spelled.
            enable_version_counter=False,
        )
        self._num_rounds = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting where a checkpoint ends."""
        assert isinstance(pl_module, SplitModule)
        self._num_rounds = pl_module.num_rounds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where a round has just ended."""
        assert isinstance(pl_module, SplitModule)
        if pl_module.num_rounds > self._num_rounds:
            self._num_rounds = pl_module.num_rounds
            super().on_train_epoch_end(trainer, pl_module)
