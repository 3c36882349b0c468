"""When rounds end, the checkpoint of each, and after which training stops."""

from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from ..modules import SplitGAN
from .run_folder import RunFolder


def is_last_epoch(trainer: Trainer) -> bool:
    """Return, at an epoch's end, whether training ends with it: by epochs, steps, time or request.

    That ends a round too, however short, so that the last steps are federated, evaluated and saved.
    Lightning asks an EarlyStopping later than other callbacks: a stop of its making is not seen.
    """
    epochs, steps = trainer.current_epoch + 1, trainer.global_step
    if epochs == trainer.max_epochs or steps == trainer.max_steps:
        return True
    # Lightning goes on until both minima are reached.
    has_minimum = epochs >= (trainer.min_epochs or 0) and steps >= (trainer.min_steps or 0)
    return trainer.should_stop and has_minimum


class RoundEarlyStopping(EarlyStopping):
    """Stops after a round whose figure has not improved for some rounds.

    Lightning's own asks after every epoch, between rounds too, where the last round's figure would
    count again, and a stop would leave steps that are in no round.

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
        super().__init__(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=True)
        self._num_rounds = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting where a checkpoint ends."""
        self._num_rounds = len(RunFolder.of(trainer).rows)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the figure of a round that has just ended."""
        rows = RunFolder.of(trainer).rows
        if len(rows) > self._num_rounds and self.monitor in rows[-1]:
            super().on_train_epoch_end(trainer, pl_module)
        self._num_rounds = len(rows)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn where there was nothing to look at."""
        rows = RunFolder.of(trainer).rows
        if rows and not any(self.monitor in row for row in rows):
            rank_zero_warn(
                f"early stopping: no round has {self.monitor}; there are {', '.join(rows[-1])}"
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
        assert isinstance(pl_module, SplitGAN)
        self._num_rounds = pl_module.num_rounds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where a round has just ended."""
        assert isinstance(pl_module, SplitGAN)
        if pl_module.num_rounds > self._num_rounds:
            self._num_rounds = pl_module.num_rounds
            super().on_train_epoch_end(trainer, pl_module)
