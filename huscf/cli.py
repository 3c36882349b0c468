"""LightningCLI with the project's classes, links from data to model, and run folders."""

import logging
import os
import secrets
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from .callbacks import (
    ActivityLines,
    BestRound,
    Budget,
    ClosingSummary,
    ClusteredFederation,
    Evaluation,
    FederationLog,
    MediaLog,
    Replanning,
    RoundCheckpoint,
    RoundProgressBar,
    RunFolder,
    RunReport,
    SampleGrid,
    ScoreTable,
    SplitTraining,
    WandbLog,
)
from .callbacks.base import find_stop
from .callbacks.run_folder import find_run_folder, read_digests
from .checkpoint_io import SafeCheckpointIO, read_checkpoint
from .checkpoint_parts import check_kept_files
from .datamodules import FederatedDataModule
from .errors import CheckpointError, DataError, HuscfError, check_complete, find_refusal
from .one_line_parser import OneLineParser
from .resuming import (
    NothingLeft,
    check_joining,
    check_same_config,
    check_same_data,
    check_unfinished,
    find_checkpoint,
)
from .run_lock import is_open
from .saved_config import check_same_model, complete_command
from .training import RankedStrategy, SplitModule, find_rank, silence_dependencies
from .training.checkpoint_checks import check_is_run
from .trust import parsing
from .user_paths import expand_path

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs",
    "devices": 1,
    "logger": False,
    "max_epochs": 100,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}

#: What Lightning needs of a checkpoint to go on from it.
RESUMED_KEYS = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step")

#: Options of the trainer that cannot be, the one value each may have, and why.
REFUSED_OPTIONS = {
    "barebones": (False, "a run needs its callbacks"),
    "gradient_clip_val": (0, "a network's gradients lie with several parties; clipping is theirs"),
    "accumulate_grad_batches": (1, "every step updates all parties; raise data.batch_size"),
}

#: Callbacks that write or print, which of several processes the first alone does.
WRITERS = (
    ActivityLines,
    ProgressBar,
    RunFolder,
    FederationLog,
    SampleGrid,
    RunReport,
    WandbLog,
    MediaLog,
    ClosingSummary,
    ScoreTable,
)

#: Keys that follow others: nobody sets them.
LINKED_KEYS = ("model.seed", "model.sample_shape", "model.batch_sizes", "model.client_sizes")


class HuscfCLI(LightningCLI):
    """The command line: what the configuration's sections mean and which keys follow others.

    Args:
        allowed: Keys that may differ from those of the run that goes on.
        args: As in LightningCLI.
        kwargs: Likewise.
    """

    def __init__(self, *args: Any, allowed: Sequence[str] = (), **kwargs: Any) -> None:
        self.allowed = allowed
        self._drawn_seed = secrets.randbelow(2**32)
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of every run, and the links from data to model."""
        parser.add_lightning_class_args(SplitTraining, "training")
        parser.add_lightning_class_args(ClusteredFederation, "federation")
        parser.add_lightning_class_args(FederationLog, "federation_log")
        parser.add_lightning_class_args(Replanning, "replanning")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(BestRound, "best_round")
        parser.add_lightning_class_args(Budget, "budget")
        parser.add_lightning_class_args(SampleGrid, "samples")
        parser.add_lightning_class_args(RunFolder, "run")
        parser.add_lightning_class_args(RunReport, "report")
        parser.add_lightning_class_args(WandbLog, "wandb")
        parser.set_defaults({"model.method": {"class_path": "huscf.methods.HuscfGan"}})
        for key in ("data.init_args.seed", LINKED_KEYS[0]):
            parser.link_arguments("seed_everything", key, compute_fn=self._choose_seed)
        for key in LINKED_KEYS[1:]:
            source = key.replace("model.", "data.")
            parser.link_arguments(source, key, apply_on="instantiate")
        keys = [action.dest for action in parser._actions]
        OneLineParser.known_keys = [key for key in keys if key not in LINKED_KEYS]

    def _parse_ckpt_path(self) -> None:
        """Resolve "last", "best" and ~; complete_command has read the checkpoint."""
        section = self.config[self.config.subcommand]
        root = expand_path(section.trainer.default_root_dir or ".")
        section.trainer.default_root_dir = str(root)
        given = section.get("ckpt_path")
        if given == "":
            raise HuscfError("--ckpt_path: needs a file, a run's folder, last or best")
        if given:
            found = find_checkpoint(str(expand_path(given)), root, section.run.name)
            section["ckpt_path"] = found
        if self.allowed and not section.get("ckpt_path"):
            raise HuscfError("--allow_changed: needs --ckpt_path, the run that goes on")

    def _choose_seed(self, given: Any) -> Any:
        """Return a seed that was drawn once where the configuration asks for one."""
        if isinstance(given, bool):
            return self._drawn_seed if given else 0  # no seed at all is refused in _set_seed
        return given

    def _set_seed(self) -> None:
        """Set the seed, which the run's configuration then has as a number."""
        section = self.config[self.config.subcommand]
        seed = section["seed_everything"]
        if seed is True:
            seed = section["seed_everything"] = self._drawn_seed
        if seed is False or not 0 <= seed < 2**32:
            raise HuscfError(
                f"seed_everything is {seed}, must be a whole number from 0 to {2**32 - 1}, or "
                "true, which draws one and saves it"
            )
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Let the table alone say the scores."""
        section = self.config[self.subcommand]
        if "verbose" in section:
            section.verbose = False  # the scores have a table of their own

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: the loop, safe checkpoints, the bar, and the summary."""
        self._dump_config()
        run = self._get(self.config_init, "run")
        # Without the checkpoint: who repeats a run with its config.yaml begins a new one.
        run.config = {**self.config_dump, "ckpt_path": None}
        run.resumed_from = self.config_dump["ckpt_path"]
        section = self._get(self.config_init, "trainer")
        for option, (accepted, reason) in REFUSED_OPTIONS.items():
            if (value := section.get(option)) is not None and value != accepted:
                raise HuscfError(f"trainer.{option}: {value} is not supported: {reason}")
        if str(section.get("precision")) in ("16", "16-mixed"):
            raise HuscfError(
                "trainer.precision: 16-mixed needs loss scaling, which does not cross the cuts; "
                "use bf16-mixed"
            )
        if self.subcommand == "fit" and section.get("limit_val_batches") is None:
            # Validation is the evaluation after a federation. Not in the run's config.yaml: other
            # commands may be given it.
            section["limit_val_batches"] = 0
        callbacks: list[Callback] = []
        others = _as_list(section.get("callbacks"))
        if any(isinstance(callback, ProgressBar) for callback in others):
            section["enable_progress_bar"] = None  # it is the user's own
            callbacks.append(ActivityLines())
        elif section.get("enable_progress_bar") is not False:
            callbacks.append(RoundProgressBar())
        if self.subcommand != "fit":
            section["enable_checkpointing"] = False
        if section.get("enable_checkpointing") is not False:
            callbacks.append(RoundCheckpoint())
        section["callbacks"] = [*callbacks, *others]
        # Who shares out what is our matter: every process reads the batches of all clients.
        section["use_distributed_sampler"] = False
        plugins = [*_as_list(section.get("plugins")), SafeCheckpointIO()]
        return self._spread(section, {"plugins": plugins, **kwargs})

    def _spread(self, section: Any, options: dict[str, Any]) -> Trainer:
        """Return the trainer; of several processes only the first writes and prints."""
        before = list(section["callbacks"])
        trainer = super().instantiate_trainer(**options)
        if (count := trainer.num_devices * trainer.num_nodes) == 1:
            return trainer
        section["callbacks"] = before
        if self.subcommand != "fit":
            # What the run's own configuration says of training does not matter here.
            return super().instantiate_trainer(**{**options, "devices": 1, "num_nodes": 1})
        if (strategy := section.get("strategy")) not in ("auto", "ddp"):
            raise HuscfError(
                f"trainer.strategy: {strategy!r:.80} does not know how to share out clients over "
                f"{count} processes: leave it out"
            )
        if self._drawn_seed == self.config[self.subcommand]["seed_everything"]:
            raise HuscfError(
                "seed_everything: every process would draw its own: give a number, or set "
                "trainer.devices and num_nodes to 1"
            )
        trainer = super().instantiate_trainer(**{**options, "strategy": RankedStrategy()})
        if not trainer.is_global_zero:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks[:] = [each for each in callbacks if not isinstance(each, WRITERS)]
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Name the folder of runs where a disk is full and nothing says which file it was."""
        try:
            super()._run_subcommand(subcommand)
        except OSError as error:
            if error.filename is None:
                error.filename = self.trainer.default_root_dir
            raise

    def instantiate_classes(self) -> None:
        """Say in one line what a class named in the configuration refuses."""
        try:
            super().instantiate_classes()
        except (ValueError, ImportError, MisconfigurationException) as error:
            raise find_refusal(error) from None

    def before_fit(self) -> None:
        """Refuse a damaged or foreign checkpoint before anything is written."""
        if path := self.config_dump["ckpt_path"]:
            checkpoint = read_checkpoint(path)
            check_is_run(checkpoint.get("huscf"))
            check_complete(checkpoint, RESUMED_KEYS)
            check_kept_files(checkpoint, path)
            saved, began_with = checkpoint.get("huscf_config"), read_digests(path)
            run = self._get(self.config_init, "run")
            if saved is not None:
                run.changes = check_same_config(saved, self.config_dump, path, self.allowed)
            check_same_data(began_with, self.datamodule.client_digests, path, may_join=True)
            clients = checkpoint["huscf"].get("engine", {}).get("clusters", {})
            check_joining(began_with, clients, self.datamodule.client_digests, path)
            if began_with is None:
                print(f"{path}: lies in no run's folder, so nothing tells whether the data changed")
            folder = find_run_folder(path)
            is_unclosed = folder is not None and is_open(folder)
            check_unfinished(checkpoint, self.trainer, path, is_unclosed)
            if option := find_stop(self.trainer, checkpoint):
                raise NothingLeft(
                    f"nothing is left to do: {path} was ended by {option}; raise that to go on"
                )

    def before_validate(self) -> None:
        """Refuse a checkpoint of another model."""
        self._check_same_model()

    def before_test(self) -> None:
        """Refuse a checkpoint of another model."""
        self._check_same_model()

    def before_predict(self) -> None:
        """Refuse a checkpoint of another model."""
        self._check_same_model()

    def _check_same_model(self) -> None:
        spectrogram = self.datamodule.spectrogram
        check_same_model(self.config_dump, spectrogram and asdict(spectrogram))


def _as_list(value: Any) -> list[Any]:
    """Return what may be one object, several, or none, as Lightning's options may, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def run(arguments: list[str]) -> None:
    """Run a LightningCLI subcommand.

    Args:
        arguments: Subcommand and its options.

    Raises:
        HuscfError: For input that the user can mend.
    """
    _quieten()
    if find_rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    command = complete_command([arguments[0], *map(_spell_out, arguments[1:])])
    OneLineParser.named = command.named
    try:
        with parsing(command.trust):
            HuscfCLI(
                SplitModule,
                FederatedDataModule,
                subclass_mode_data=True,
                save_config_callback=None,
                trainer_defaults={
                    **TRAINER_DEFAULTS,
                    "callbacks": [MediaLog(), ClosingSummary(), ScoreTable()],
                },
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_class=OneLineParser,
                parser_kwargs={"prog": "huscf"},
                args=command.arguments,
                allowed=command.allowed,
            )
    except NothingLeft as message:
        print(message)
    except MisconfigurationException as error:
        raise HuscfError(str(error)) from error
    except HuscfError as error:
        # The first process says the same, but not what is wrong with another machine's data.
        if find_rank() and not isinstance(error, DataError):
            os._exit(2)  # at once: the others wait for its end
        raise
    except Exception as error:
        if not _is_from_restoring(error):
            raise
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the checkpoint is damaged or malformed: {type(error).__name__} {reason:.200}"
        ) from error
    except SIGTERMException:
        # Lightning's own exit code is 0, which says that nothing is left to do.
        if find_rank():
            os._exit(128 + signal.SIGTERM)
        sys.exit(128 + signal.SIGTERM)


def _is_from_restoring(error: BaseException) -> bool:
    """Return whether an error arose while Lightning restored a checkpoint."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(Path(f.f_code.co_filename).stem == "checkpoint_connector" for f, _ in frames)


def _spell_out(option: str) -> str:
    """Return the key of the configuration that `--protocol` stands for, and all else as it is."""
    name, mark, value = option.partition("=")
    return f"--model.protocol{mark}{value}" if name == "--protocol" else option


def _quieten() -> None:
    """Silence notes that tell a user of this tool nothing."""
    silence_dependencies()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    if find_rank():
        logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*args parameter is intended to run from within Python.*",
        ".*callbacks used to create the checkpoint need to be provided.*Checkpoint.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*`instantiate_classes` was deprecated.*",
        ".*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
