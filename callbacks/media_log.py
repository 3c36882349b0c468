"""Hands what a run draws to the trainer's loggers, as each of them can."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from ..reporting.logger_media import send_config, send_media
from ..training import RoundResult, SplitModule
from .base import RoundCallback
from .run_folder import RunFolder
from .wandb_log import WandbLog


class MediaLog(RoundCallback):
    """Logs configuration, sample grids, sounds, cluster maps and charts to `trainer.logger`.

    RunFolder logs the figures. TensorBoard and W&B show pictures and sounds, MLflow keeps them as
    artifacts; loggers that know none get the figures alone. Without a RunFolder nothing is drawn.
    """

    def __init__(self) -> None:
        self._is_trained = False
        self._loggers: list[Logger] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the configuration, where the command line knows it."""
        self._is_trained = False
        self._loggers = find_loggers(trainer)
        run = find_run(trainer)
        for logger in self._loggers:
            if run is not None and run.config is not None:
                send_config(logger, run.config)

    def on_round_logged(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Log what the round has drawn."""
        suffix = f"round-{result.number:04d}"
        self._send(trainer, module, f"samples/*-{suffix}.*", self._loggers)
        # FederationLog gives its map to W&B itself.
        others = [one for one in self._loggers if not isinstance(one, WandbLogger)]
        self._send(trainer, module, f"federation/{suffix}.png", others)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that training has come to its end."""
        self._is_trained = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the last samples and the charts, when all callbacks have drawn theirs."""
        if self._is_trained and isinstance(pl_module, SplitModule):
            self._send(trainer, pl_module, "samples/*-final.*", self._loggers)
            self._send(trainer, pl_module, "charts/*.png", self._loggers)
        self._is_trained = False

    def _send(
        self, trainer: Trainer, module: SplitModule, pattern: str, loggers: Iterable[Logger]
    ) -> None:
        run = find_run(trainer)
        media = {} if run is None or run.path is None else find_media(run.path, pattern)
        for logger in loggers if media else ():
            send_media(logger, media, trainer.global_step, module.num_rounds)


def find_run(trainer: Trainer) -> RunFolder | None:
    """Return the trainer's run folder, if it has one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((c for c in callbacks if isinstance(c, RunFolder)), None)


def find_loggers(trainer: Trainer) -> list[Logger]:
    """Return the trainer's loggers, without that of a WandbLog, which serves its own."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    served = [c.logger for c in callbacks if isinstance(c, WandbLog)]
    return [one for one in trainer.loggers if not any(one is other for other in served)]


def find_media(folder: Path, pattern: str) -> Mapping[str, Path]:
    """Return pictures and sounds by name, as samples/digits and sounds/digits of one round.

    Args:
        folder: The run's.
        pattern: Of files below it.
    """
    found = {}
    for path in sorted(folder.glob(pattern)):
        place = "sounds" if path.suffix == ".wav" else path.parent.name
        stem = path.stem.removesuffix("-final")
        name, mark, _ = stem.partition("round-")
        found[f"{place}/{name.rstrip('-') or 'map' if mark else stem}"] = path
    return found
