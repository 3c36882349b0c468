"""What a run leaves behind: one folder with everything that is needed to read or repeat it."""

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..bounded_files import MAX_YAML_BYTES, parse_yaml, read_bytes
from ..checkpoint_io import read_checkpoint
from ..errors import CheckpointError, HuscfError, check_complete
from ..nested_values import to_yaml
from ..planning import SearchedPlan
from ..provenance import note_start
from ..resuming import find_newest
from ..run_lock import RunLock
from ..training import RoundResult, SplitModule
from ..whole_files import write_table, write_text
from .base import RoundCallback
from .training_clock import TrainingClock

#: Hashes of the clients' data, by which a run that goes on is known to have its own.
DIGESTS = "data_digests.yaml"


class RunFolder(RoundCallback):
    """Makes the run's folder below trainer.default_root_dir and writes one metrics row a round.

    The folder is <default_root_dir>/<name>-<n> with the first free n; a resumed run goes on in
    the folder of its checkpoint.

    Args:
        name: Name of the run.
        share_generator: Whether `huscf export --client` may hand a client a full generator, the
            server's blocks included; where clients are at sites, whether each site gets one when
            the run ends.

    Attributes:
        config: The full resolved configuration as plain values, where the command line knows it.
        resumed_from: The checkpoint that the run goes on from, where the command line knows it.
        changes: What differs from the configuration of that checkpoint, on request.
    """

    def __init__(self, name: str = "run", share_generator: bool = False) -> None:
        if not is_folder_name(name):
            raise HuscfError(
                f"run.name is {name!r}, must be the name of one folder, without / or \\"
            )
        self.name = name
        self.share_generator = share_generator
        self.config: dict[str, Any] | None = None
        self.resumed_from: str | None = None
        self.changes: list[str] = []
        self.path: Path | None = None
        self._made: Path | None = None
        self._lock: RunLock | None = None
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._num_steps = 0
        self._num_sound = 0
        self._num_epochs = 0
        self._clock = TrainingClock()
        self._num_bytes = 0

    @property
    def num_open_epochs(self) -> int:
        """Epochs since the last round's end."""
        return self._num_epochs

    @classmethod
    def of(cls, trainer: Trainer, owner: Callback) -> "RunFolder":
        """Return the trainer's run folder; every run of the command line has one.

        Args:
            trainer: The trainer.
            owner: The callback that writes there.

        Raises:
            HuscfError: Where there is none, naming the owner.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, cls):
                return callback
        raise HuscfError(
            f"{type(owner).__name__} writes into the run's folder: put huscf.callbacks.RunFolder "
            "among the trainer's callbacks"
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose and create the folder before checkpoints look for theirs."""
        if stage != "fit":
            return
        self.path = self._choose_folder(trainer)
        self._lock = RunLock(self.path)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str((self.path / "checkpoints").resolve())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write configuration, partition and cut plan."""
        assert isinstance(pl_module, SplitModule) and self.path is not None
        if self.config is not None:
            write_yaml(self.path / "config.yaml", self.config)
        data = trainer.datamodule  # type: ignore[attr-defined]
        write_yaml(self.path / "partition.yaml", data.make_manifest())
        write_yaml(self.path / DIGESTS, data.client_digests)
        # A resumed run's cuts may be others than those that it began with.
        if pl_module.num_rounds == 0 or not (self.path / "plan.yaml").exists():
            source = pl_module.plan_source
            searched = source.result if isinstance(source, SearchedPlan) else None
            is_running = searched is not None and searched.plan == pl_module.plan
            figures = searched.summarize() if searched and is_running else {}
            pl_module.plan.save(self.path / "plan.yaml", **figures)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note software, machine and command, and the changes that were asked for."""
        assert isinstance(pl_module, SplitModule) and self.path is not None
        note_start(self.path, pl_module.num_rounds)
        if not self.changes:
            return
        lines = "".join(f"from round {len(self.rows) + 1} on: {one}\n" for one in self.changes)
        print(lines, end="", flush=True)
        with (self.path / "changes.txt").open("a", encoding="utf-8") as file:
            file.write(lines)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Gather the step's losses; Lightning's means begin anew where a run is resumed."""
        assert isinstance(pl_module, SplitModule)
        for name, value in pl_module.last_losses.items():
            key = f"train/{name}"
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._num_steps += 1
        self._num_sound += any(map(math.isfinite, pl_module.last_losses.values()))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epochs of the running round, and their time."""
        self._num_epochs += 1
        self._clock.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock between epochs."""
        self._clock.stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock while the trainer validates in an epoch."""
        self._clock.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the epoch."""
        if trainer.training:
            self._clock.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let others go on with the run."""
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let others go on with the run, which has not come to its end.

        One that was refused before its first step leaves no folder.
        """
        self._release(is_done=False)
        is_refused = isinstance(exception, (HuscfError, MisconfigurationException))
        if is_refused and self._made is not None and not self._num_epochs:
            shutil.rmtree(self._made, ignore_errors=True)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration, so that another is refused, and what samples look like."""
        assert isinstance(pl_module, SplitModule)
        checkpoint["huscf_config"] = self.config
        data = trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["huscf_data"] = {
            "sample_shape": asdict(pl_module.sample_shape),
            "class_names": list(data.common_class_names),
            "num_classes": data.client_num_classes,
            "channels": data.client_channels,
            "domains": data.client_domains,
            "domain_class_names": {n: list(d.class_names) for n, d in data.domains.items()},
            "spectrogram": data.spectrogram and asdict(data.spectrogram),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, and what the running round's row is made of."""
        return {
            "rows": self.rows,
            "sums": self._sums,
            "num_steps": self._num_steps,
            "num_epochs": self._num_epochs,
            "num_bytes": self._num_bytes,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the saved rows."""
        check_complete(state_dict, self.state_dict())
        self.rows = [{str(k): _as_figure(v) for k, v in row.items()} for row in state_dict["rows"]]
        self._sums = dict(state_dict["sums"])
        self._num_steps = state_dict["num_steps"]
        self._num_epochs = state_dict["num_epochs"]
        self._num_bytes = state_dict["num_bytes"]

    def _refuse_to_go_on(self, number: int) -> None:
        """End a run in which nobody learns any more, before it replaces its checkpoints."""
        assert self.path is not None
        newest = find_newest(self.path)
        raise HuscfError(
            f"round {number}: no loss of any client in any step was finite, training has diverged; "
            "lower the learning rates"
            + (f"; the last checkpoint before is {newest}" if newest else "")
        )

    def _release(self, is_done: bool = True) -> None:
        if self._lock is not None:
            self._lock.release(is_done)
            self._lock = None

    def _choose_folder(self, trainer: Trainer) -> Path:
        if self.resumed_from is not None and (folder := find_run_folder(self.resumed_from)):
            return folder
        root = Path(trainer.default_root_dir)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._made = make_free_folder(root, self.name)
            return self._made
        except OSError as error:
            raise HuscfError(
                f"run folder: cannot write below {root} ({error.strerror}); "
                "choose another with --trainer.default_root_dir"
            ) from error

    def on_round_logged(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Write the round's row."""
        assert self.path is not None
        num_bytes = module.wire.traffic.total()
        row: dict[str, float] = {
            "round": result.number,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            **{name: total / self._num_steps for name, total in self._sums.items()},
            **result.figures,
            "traffic/mbytes": (num_bytes - self._num_bytes) / 1e6,
            "dropped_steps": sum(module.engine.num_dropped.values()),
            "seconds": self._clock.take(result.trained_at),
        }
        self.rows.append(row)
        write_csv(self.path / "metrics.csv", self.rows)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)
        if self._sums and not self._num_sound:
            self._refuse_to_go_on(result.number)
        self._sums, self._num_steps, self._num_epochs, self._num_sound = {}, 0, 0, 0
        self._num_bytes = num_bytes


def is_folder_name(name: str) -> bool:
    """Return whether text is the name of one folder on every system."""
    is_plain = name.isprintable() and name == name.strip() and not name.startswith(".")
    return bool(name) and is_plain and not set(name) & set('/\\:*?"<>|')


def find_run_folder(checkpoint: str | Path) -> Path | None:
    """Return the folder of the run that wrote a checkpoint, or None where it lies elsewhere."""
    checkpoints = Path(checkpoint).resolve().parent
    folder, here = checkpoints.parent, Path.cwd()
    files = ("config.yaml", "partition.yaml", "plan.yaml")
    if checkpoints.name != "checkpoints" or not all((folder / name).exists() for name in files):
        return None
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def read_digests(checkpoint: str | Path) -> dict[int, str] | None:
    """Return what tells whether a checkpoint's clients have the data that they began with.

    It lies in the run's folder, not in the checkpoint: with it, whoever holds data could find out
    whether a client has the same. Checkpoints of earlier versions have it.

    Returns:
        A digest by client, or None where the checkpoint lies elsewhere.

    Raises:
        HuscfError: Where the file is damaged.
    """
    saved = (read_checkpoint(checkpoint).get("huscf_data") or {}).get("client_digests")
    if saved is not None:
        return saved
    folder = find_run_folder(checkpoint)
    if folder is None or not (folder / DIGESTS).exists():
        return None
    path = folder / DIGESTS
    try:
        found = parse_yaml(read_bytes(path, folder, MAX_YAML_BYTES), path)
    except yaml.YAMLError as error:
        raise HuscfError(f"{path}: not YAML: remove it to go on without") from error
    if not isinstance(found, dict):
        raise HuscfError(f"{path}: needs a digest for each client: remove it to go on without")
    return found


def write_yaml(path: Path, values: object) -> None:
    """Write plain values as YAML, replacing the file at once."""
    write_text(path, to_yaml(values, default_flow_style=None, width=100))


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV with the union of their columns, replacing the file at once."""
    write_table(path, list(dict.fromkeys(name for row in rows for name in row)), rows)


def _as_figure(value: Any) -> float:
    """Return a saved figure as it is; what a checkpoint holds in its place is no cell of a CSV."""
    if type(value) not in (int, float):
        raise CheckpointError(
            f"the checkpoint's figures of rounds must be numbers, got {value!r:.40}"
        )
    return value


def make_free_folder(root: Path, name: str) -> Path:
    """Make and return the folder <root>/<name>-<n> with the first free n."""
    number = 1
    while True:
        folder = root / f"{name}-{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
