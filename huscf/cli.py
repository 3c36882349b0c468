"""LightningCLI with the project's classes, links from data to model, and run folders."""

import difflib
import importlib
import inspect
import json
import logging
import re
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from .callbacks import (
    ClosingSummary,
    ClusteredFederation,
    Evaluation,
    Replanning,
    RoundProgressBar,
    RunFolder,
    RunReport,
    SampleGrid,
    ScoreTable,
    SplitTraining,
    WandbLog,
)
from .checkpoint_io import SafeCheckpointIO, read_checkpoint
from .datamodules import FederatedDataModule
from .errors import CheckpointError, HuscfError
from .modules import SplitGAN

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs",
    "devices": 1,
    "logger": False,
    "max_epochs": 100,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


#: Sections of the configuration that may differ when a run is resumed.
FREE_KEYS = (
    *("trainer", "training", "run", "samples", "evaluation", "report", "wandb"),
    *("ckpt_path", "weights_only"),
)

#: Sections that a checkpoint's run lends to validate, test and predict.
LENT_KEYS = ("seed_everything", "model", "data", "federation", "evaluation", "samples", "run")
#: Keys that follow others: nobody sets them.
LINKED_KEYS = ("model.seed", "model.sample_shape", "model.batch_sizes", "model.client_sizes")


class OneLineParser(LightningArgumentParser):
    """Says in one line which key is wrong and what is allowed there, instead of the whole usage."""

    known_keys: ClassVar[list[str]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation that happens to fit one key would hide a misspelled one.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        line = " ".join(message.split())
        print(f"huscf: error: {line}{self._suggest(line)}", file=sys.stderr)
        sys.exit(2)

    def _suggest(self, line: str) -> str:
        """Return the keys that stand where an unknown one was given, the likeliest first."""
        if of_class := re.search(r"class_path[ =]'([\w.]+)'.*Option '\w+' is not accepted", line):
            return _name_arguments(of_class.group(1))
        if of_class := re.search(r"Option '\w+' is not accepted.*class_path='([\w.]+)'", line):
            return _name_arguments(of_class.group(1))
        match = re.search(r"(?:accept option |unrecognized arguments: )'?-*([\w.]+)", line)
        if match is None:
            return ""
        section = match.group(1).rpartition(".")[0]
        there = [key for key in self.known_keys if key.rpartition(".")[0] == section]
        near = difflib.get_close_matches(match.group(1), there, n=1)
        names = ", ".join(key.rpartition(".")[2] for key in there)
        hints = [f"; did you mean {key}?" for key in near]
        hints += [f"; allowed in {section}: {names}"] if section and there else []
        return "".join(hints)


def _name_arguments(class_path: str) -> str:
    """Return what the class or function that a class_path names takes."""
    module, _, name = class_path.rpartition(".")
    names = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    return f"; {name} takes: {', '.join(names)}"


class HuscfCLI(LightningCLI):
    """The command line: what the configuration's sections mean and which keys follow others."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of every run, and the links from data to model."""
        parser.add_lightning_class_args(SplitTraining, "training")
        parser.add_lightning_class_args(ClusteredFederation, "federation")
        parser.add_lightning_class_args(Replanning, "replanning")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(SampleGrid, "samples")
        parser.add_lightning_class_args(RunFolder, "run")
        parser.add_lightning_class_args(RunReport, "report")
        parser.add_lightning_class_args(WandbLog, "wandb")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("seed_everything", LINKED_KEYS[0])
        for key in LINKED_KEYS[1:]:
            source = key.replace("model.", "data.")
            parser.link_arguments(source, key, apply_on="instantiate")
        keys = [action.dest for action in parser._actions]
        OneLineParser.known_keys = [key for key in keys if key not in LINKED_KEYS]

    def _parse_ckpt_path(self) -> None:
        """Resolve "last"; our checkpoints carry the configuration in the run folder instead."""
        section = self.config[self.config.subcommand]
        if section.get("ckpt_path") == "last":
            section["ckpt_path"] = find_last_checkpoint(Path(section.trainer.default_root_dir))

    def before_instantiate_classes(self) -> None:
        """Leave validation during fit to the evaluation after each federation."""
        section = self.config[self.subcommand]
        if self.subcommand == "fit" and section.trainer.limit_val_batches is None:
            section.trainer.limit_val_batches = 0
        if "verbose" in section:
            section.verbose = False  # the scores have a table of their own

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: the loop, safe checkpoints, the bar, and the summary."""
        self._dump_config()
        federation = self._get(self.config_init, "federation")
        run = self._get(self.config_init, "run")
        run.config = self.config_dump
        run.resumed_from = self.config_dump["ckpt_path"]
        section = self._get(self.config_init, "trainer")
        callbacks: list[Callback] = []
        if section.get("enable_progress_bar") is not False:
            callbacks.append(RoundProgressBar())
        if self.subcommand != "fit":
            section["enable_checkpointing"] = False
        if section.get("enable_checkpointing") is not False:
            callbacks.append(make_checkpoint(federation.every_n_epochs))
        section["callbacks"] = [*callbacks, *(section.get("callbacks") or [])]
        plugins = section.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        return super().instantiate_trainer(plugins=[*plugins, SafeCheckpointIO()], **kwargs)

    def before_fit(self) -> None:
        """Refuse a damaged or foreign checkpoint before anything is written."""
        if path := self.config_dump["ckpt_path"]:
            saved = read_checkpoint(path).get("huscf_config")
            if saved is not None:
                check_same_config(saved, self.config_dump)

    def before_validate(self) -> None:
        """Refuse a checkpoint of another model."""
        self._check_model()

    def before_test(self) -> None:
        """Refuse a checkpoint of another model."""
        self._check_model()

    def before_predict(self) -> None:
        """Refuse a checkpoint of another model."""
        self._check_model()

    def _check_model(self) -> None:
        path = self.config_dump["ckpt_path"]
        if path is None:
            raise HuscfError(f"{self.subcommand} needs --ckpt_path runs/.../last.ckpt")
        saved = read_checkpoint(path).get("huscf_config")
        if saved is not None:
            free = ("num_evaluated_per_class", "num_evaluated_clients")
            models = (
                {name: value for name, value in config["model"].items() if name not in free}
                for config in (saved, self.config_dump)
            )
            check_same_config(*({"model": model} for model in models))


def make_checkpoint(every_n_epochs: int) -> ModelCheckpoint:
    """Return the checkpointing of a run: at every round's end, the last two are kept."""
    return ModelCheckpoint(
        filename="round-{round:04.0f}",
        monitor="round",
        mode="max",
        save_top_k=2,
        save_last=True,
        auto_insert_metric_name=False,
        every_n_epochs=every_n_epochs,
        save_on_train_epoch_end=True,
    )


def find_last_checkpoint(root: Path) -> str:
    """Return the newest last.ckpt of the runs below a folder.

    Raises:
        CheckpointError: Where there is none.
    """
    found = sorted(root.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckpointError(
            f"--ckpt_path last: no run with a checkpoint below {root}; "
            "name a file, or the folder with --trainer.default_root_dir"
        )
    return str(found[-1])


def check_same_config(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise a CheckpointError that lists the differences between two configurations."""
    old, new = _flatten(saved), _flatten(current)
    differing = [
        f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}"
        for key in sorted(old.keys() | new.keys())
        if key.split(".")[0] not in FREE_KEYS and old.get(key) != new.get(key)
    ]
    if differing:
        raise CheckpointError(
            "the checkpoint belongs to other hyper-parameters (checkpoint -> now): "
            + "; ".join(differing)
        )


def run(arguments: list[str]) -> None:
    """Run a LightningCLI subcommand.

    Args:
        arguments: Subcommand and its options.

    Raises:
        HuscfError: For input that the user can mend.
    """
    _quieten()
    arguments = [arguments[0], *lend_config(arguments), *arguments[1:]]
    try:
        HuscfCLI(
            SplitGAN,
            FederatedDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults={**TRAINER_DEFAULTS, "callbacks": [ClosingSummary(), ScoreTable()]},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=OneLineParser,
            parser_kwargs={"prog": "huscf"},
            args=arguments,
        )
    except MisconfigurationException as error:
        raise HuscfError(str(error)) from error


def lend_config(arguments: Sequence[str]) -> list[str]:
    """Return options that give the configuration of --ckpt_path's run, where none is given.

    Args:
        arguments: Subcommand and its options.
    """
    options = ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--config", "-c")
    options.add_argument("--ckpt_path")
    options.add_argument("--trainer.default_root_dir", dest="root", default="runs", type=Path)
    found, _ = options.parse_known_args(list(arguments[1:]))
    if arguments[0] == "fit" or found.config or found.ckpt_path is None:
        return []
    path = find_last_checkpoint(found.root) if found.ckpt_path == "last" else found.ckpt_path
    config = read_checkpoint(path).get("huscf_config")
    if config is None:
        return []
    return ["--config", json.dumps({key: config[key] for key in LENT_KEYS if key in config})]


def _quieten() -> None:
    """Silence notes that tell a user of this tool nothing."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*args parameter is intended to run from within Python.*",
        ".*LeafSpec.*",
        ".*callbacks used to create the checkpoint need to be provided.*ModelCheckpoint.*",
        ".*smaller than the logging interval.*",
        ".*`instantiate_classes` was deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _flatten(values: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        key: value
        for name, nested in values.items()
        for key, value in _flatten(nested, f"{prefix}.{name}" if prefix else str(name)).items()
    }
