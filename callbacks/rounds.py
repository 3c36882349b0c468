"""The checkpoint of every round, and after which training stops."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_warn

from ..errors import check_number
from ..training import LinkingCheckpoint, RoundResult, SplitModule
from .base import RoundCallback
from .best_round import HELD_OUT


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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience that is asked for now."""
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience

    def explain_stop(self, state_dict: Mapping[str, Any]) -> str:
        """Return the patience where it is used up."""
        num_worse = state_dict.get("wait_count")
        is_over = type(num_worse) is int and self.patience <= num_worse
        reason = f"patience {self.patience} of RoundEarlyStopping, as no round was better"
        return reason if is_over else ""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn where there was nothing to look at."""
        if not self._names and self._there:
            rank_zero_warn(
                f"early stopping: no round has {self.monitor}; there are {', '.join(self._there)}"
            )


class RoundCheckpoint(LinkingCheckpoint):
    """Saves a run at every round's end; the last two rounds are kept, last.ckpt and best.ckpt.

    best.ckpt is the round with the least held_out/distance, where clients hold something out.
    """

    def __init__(self) -> None:
        super().__init__(
            filename="round-{round:04.0f}",
            monitor="round",
            mode="max",
            save_top_k=2,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
            # A run that goes on in its folder replaces last.ckpt, however its path was spelled.
            enable_version_counter=False,
        )
        self._num_rounds = 0
        self._least = math.inf

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting where a checkpoint ends."""
        assert isinstance(pl_module, SplitModule)
        self._num_rounds = pl_module.num_rounds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where a round has just ended."""
        assert isinstance(pl_module, SplitModule)
        if pl_module.num_rounds > self._num_rounds:
            self._num_rounds = pl_module.num_rounds
            distance = float(trainer.callback_metrics.get(HELD_OUT, math.inf))
            is_best, self._least = distance < self._least, min(self._least, distance)
            super().on_train_epoch_end(trainer, pl_module)
            if is_best:
                written = self.best_model_path  # the newest round's
                best = Path(written).with_name("best.ckpt")
                self._link_checkpoint(trainer, written, str(best))

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state, and the least distance so far."""
        return {**super().state_dict(), "least": self._least}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        super().load_state_dict(state_dict)
        self._least = float(state_dict.get("least", math.inf))
