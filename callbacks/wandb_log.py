"""Weights & Biases: what a run writes to its folder, as a W&B run too."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from ..errors import HuscfError
from ..reporting import RunRecord
from ..reporting.wandb_media import make_media, make_tables
from ..training import RoundResult, SplitModule
from .base import RoundCallback
from .run_folder import RunFolder


class WandbLog(RoundCallback):
    """Logs configuration, rounds, grids, sounds, clusters, plan and traffic to W&B.

    Everything stays below the run's folder; an offline run is uploaded later by `wandb sync`. What
    goes to W&B are generated samples, figures and who is in which cluster, no real sample.

    Args:
        enabled: Whether to log to W&B at all.
        project: The W&B project; None is that of WANDB_PROJECT, else huscf.
        entity: The W&B user or team; None is that of WANDB_ENTITY, else the default one.
        offline: None is offline unless there is an API key; WANDB_MODE goes before it.

    Raises:
        HuscfError: Where W&B is to be reached and cannot be.
    """

    def __init__(
        self,
        enabled: bool = False,
        project: str | None = None,
        entity: str | None = None,
        offline: bool | None = None,
    ) -> None:
        self.enabled = enabled
        self.project = project
        self.entity = entity
        self.offline = offline
        self.logger: WandbLogger | None = None
        self._run_id: str | None = None
        self._environment: dict[str, str | None] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the W&B run in the run's folder and hand its logger to the trainer."""
        if not self.enabled or os.environ.get("WANDB_MODE") == "disabled":
            return
        import wandb

        run = RunFolder.of(trainer, self)
        assert run.path is not None
        self.logger = self._open(run.path)
        try:
            experiment = self.logger.experiment
        except wandb.errors.Error as error:
            self.logger = None
            self._restore_environment()
            reason = str(error).splitlines()[0].rstrip(".")
            raise HuscfError(
                f"W&B: {reason}; --wandb.offline true keeps the run on this machine, "
                "--wandb.enabled false does without W&B"
            ) from error
        self._run_id = experiment.id
        experiment.config.update(run.config or {}, allow_val_change=True)
        experiment.define_metric("round")
        experiment.define_metric("*", step_metric="round")
        trainer.loggers = [*trainer.loggers, self.logger]

    def on_round_logged(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Log the grids of the round, where there are new ones."""
        if self.logger is None:
            return
        folder = RunFolder.of(trainer, self).path
        assert folder is not None
        suffix = f"-round-{result.number:04d}"
        if grids := sorted((folder / "samples").glob(f"*{suffix}.png")):
            named = {f"samples/{p.stem.removesuffix(suffix)}": p for p in grids}
            self._log(named, result.number)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the run's folder holds at its end, and close the W&B run."""
        assert isinstance(pl_module, SplitModule)
        if self.logger is None:
            return
        folder = RunFolder.of(trainer, self).path
        assert folder is not None
        run = RunRecord.read(folder)
        finals = {f"samples/{p.stem.removesuffix('-final')}": p for p in run.grids()}
        sounds = {f"sounds/{p.stem.removesuffix('-final')}": p for p in run.sounds()}
        charts = {f"charts/{p.stem}": p for p in sorted((folder / "charts").glob("*.png"))}
        self._log({**finals, **sounds, **charts}, pl_module.num_rounds)
        experiment = self.logger.experiment
        experiment.log({"round": pl_module.num_rounds, **make_tables(run)})
        experiment.summary.update(run.last())
        self._close(0)
        place = Path(experiment.dir).parent
        print(f"W&B run: {place}" + (f"; upload: wandb sync {place}" if self._is_offline() else ""))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the W&B run as failed."""
        if self.logger is not None:
            self._close(1)

    def state_dict(self) -> dict[str, Any]:
        """Return the W&B run's id."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the same W&B run."""
        self._run_id = state_dict["run_id"]

    def _open(self, folder: Path) -> WandbLogger:
        import wandb

        # W&B stages tables and keeps logs in the home directory unless told otherwise.
        places = {"WANDB_DATA_DIR": folder / "wandb", "WANDB_CACHE_DIR": folder}
        for name, place in places.items():
            self._environment[name] = os.environ.get(name)
            os.environ[name] = str(place)
        is_offline = self._is_offline()
        return WandbLogger(
            name=os.environ.get("WANDB_NAME") or folder.name,
            save_dir=folder,
            project=self.project or os.environ.get("WANDB_PROJECT") or "huscf",
            entity=self.entity,
            offline=is_offline,
            id=self._run_id,
            resume=None if is_offline or self._run_id is None else "allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def _is_offline(self) -> bool:
        mode = os.environ.get("WANDB_MODE")
        if mode:
            return mode != "online"
        if self.offline is None:
            import wandb

            return not wandb.api.api_key
        return self.offline

    def _log(self, files: Mapping[str, Path], num_rounds: int) -> None:
        assert self.logger is not None
        media = {name: make_media(path) for name, path in files.items()}
        self.logger.experiment.log({"round": num_rounds, **media})

    def _close(self, exit_code: int) -> None:
        assert self.logger is not None
        self.logger.experiment.finish(exit_code)
        self.logger = None
        self._restore_environment()

    def _restore_environment(self) -> None:
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
