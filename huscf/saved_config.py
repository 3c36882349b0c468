"""The configuration that a checkpoint carries: compared when resuming, lent to later commands."""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .checkpoint_io import check_trained, read_checkpoint
from .errors import CheckpointError, HuscfError
from .nested_values import flatten
from .trust import Trust, find_names

#: Sections of the configuration that may differ when a run is resumed.
FREE_KEYS = (
    *("trainer", "training", "run", "samples", "evaluation", "report", "wandb"),
    *("federation_log", "ckpt_path", "weights_only"),
)

#: Sections that a checkpoint's run lends to validate, test and predict.
LENT_KEYS = ("seed_everything", "model", "data", "federation", "evaluation", "samples", "run")

#: Keys of the model that only say how it is evaluated: they may differ always.
EVALUATION_KEYS = (
    "num_evaluated_per_class",
    "num_evaluated_clients",
    "num_evaluated_seeds",
    "plain_judge",
    "inception",
)

NEEDS_CHECKPOINT = "this command needs --ckpt_path runs/.../last.ckpt"


def find_last_checkpoint(root: Path) -> str:
    """Return the newest last.ckpt of the runs below a folder.

    Raises:
        CheckpointError: Where there is none.
    """
    found = sorted(root.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckpointError(
            f"--ckpt_path last: no run with a checkpoint below {root}; "
            "name a file, or (fit, validate, test) the folder with --trainer.default_root_dir"
        )
    return str(found[-1])


def check_same_config(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise a CheckpointError that lists the differences between two configurations."""
    old, new = flatten(saved), flatten(current)
    differing = [
        f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}"
        for key in sorted(old.keys() | new.keys())
        if not _is_free(key) and old.get(key) != new.get(key)
    ]
    if differing:
        raise CheckpointError(
            "the checkpoint belongs to other hyper-parameters (checkpoint -> now): "
            + "; ".join(differing)
        )


def check_same_data(saved: dict[str, Any], digests: Mapping[int, str]) -> None:
    """Raise a CheckpointError that names the clients whose data a run did not begin with.

    Args:
        saved: What a checkpoint says of its data.
        digests: The present clients', from `FederatedDataModule.client_digests`.
    """
    if changed := find_changed_clients(saved, digests):
        raise CheckpointError(
            f"the checkpoint belongs to other data: that of {len(changed)} clients has changed, "
            f"of client {changed[0]} first; give the run's own data, or begin a new run"
        )


def find_changed_clients(saved: dict[str, Any], digests: Mapping[int, str]) -> list[int]:
    """Return the clients whose data are not those that a run began with; see check_same_data."""
    before = saved.get("client_digests", digests)
    return [c for c in sorted(before.keys() | digests.keys()) if before.get(c) != digests.get(c)]


def check_same_model(config: dict[str, Any], spectrogram: dict[str, Any] | None) -> None:
    """Refuse to use a checkpoint that is untrained, or with another model than its own.

    Args:
        config: The present configuration, with the checkpoint's path under "ckpt_path".
        spectrogram: How the present data makes pictures of sound; None where it does not.

    Raises:
        HuscfError: Where no checkpoint is given, or listing the differences.
    """
    if config["ckpt_path"] is None:
        raise HuscfError(NEEDS_CHECKPOINT)
    checkpoint = read_checkpoint(config["ckpt_path"])
    check_trained(checkpoint, config["ckpt_path"])
    saved = checkpoint.get("huscf_config")
    if saved is not None:
        own = checkpoint["huscf_data"]["spectrogram"]
        check_same_config(
            {"model": saved["model"], "spectrogram": own},
            {"model": config["model"], "spectrogram": spectrogram},
        )


@dataclass(frozen=True)
class LentConfig:
    """What a checkpoint's configuration adds to a command.

    Args:
        arguments: The subcommand and its options, with what is lent before the user's own.
        trust: What the configuration may name, or None where none is lent.
    """

    arguments: list[str]
    trust: Trust | None = None


def lend_config(arguments: Sequence[str]) -> LentConfig:
    """Give a command the configuration of --ckpt_path's run, where it has no other.

    Args:
        arguments: Subcommand and its options.

    Raises:
        HuscfError: Where a command other than fit has neither, or the checkpoint's configuration
            names code that the user does not trust.
    """
    options = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    options.add_argument("--trust", nargs="+", action="extend", default=[])
    found, own = options.parse_known_args(list(arguments[1:]))
    trust = Trust(tuple(found.trust), _find_own_names(own))
    own = [arguments[0], *own]
    asks_only = any(option.startswith(("-h", "--help", "--print_config")) for option in own)
    config = None if own[0] == "fit" or asks_only else _read_config(own, trust)
    if config is None:
        return LentConfig(own)
    lent = {key: config[key] for key in LENT_KEYS if key in config}
    # As one line of YAML: JSON would turn numbers that are keys into strings.
    text = yaml.safe_dump(lent, default_flow_style=True, width=sys.maxsize)
    return LentConfig([own[0], "--config", text, *own[1:]], trust)


def _read_config(arguments: Sequence[str], trust: Trust) -> dict[str, Any] | None:
    """Return the checked configuration of the checkpoint that a command is given, if it has one."""
    options = ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--config", "-c")
    options.add_argument("--ckpt_path")
    options.add_argument("--trainer.default_root_dir", dest="root", default="runs", type=Path)
    found, _ = options.parse_known_args(list(arguments[1:]))
    if found.ckpt_path is None:
        if found.config:
            return None
        raise HuscfError(NEEDS_CHECKPOINT)
    path = find_last_checkpoint(found.root) if found.ckpt_path == "last" else found.ckpt_path
    config = read_checkpoint(path).get("huscf_config")
    if config is None:
        if found.config:
            return None
        raise CheckpointError(f"checkpoint {path}: was not made by huscf fit; give --config too")
    trust.check(config, f"checkpoint {path}")
    return config


def _find_own_names(arguments: Sequence[str]) -> frozenset[str]:
    """Return the import paths in the user's own configuration files and options."""
    values: list[Any] = []
    for argument in arguments:
        text = argument.partition("=")[2] if argument.startswith("--") else argument
        with suppress(OSError, ValueError, yaml.YAMLError):  # the parser says it better
            is_file = Path(text).is_file()
            is_config = is_file and text.endswith((".yaml", ".yml"))
            content = yaml.safe_load(Path(text).read_text(encoding="utf-8")) if is_config else None
            values.append(content if is_file else text)
    return find_names(values)


def _is_free(key: str) -> bool:
    section, _, rest = key.partition(".")
    return section in FREE_KEYS or (
        section == "model" and rest.partition(".")[0] in EVALUATION_KEYS
    )
