"""The configuration that a checkpoint carries, lent to the commands that use it."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .checkpoint_io import check_trained, read_checkpoint
from .errors import CheckpointError, HuscfError
from .named_configs import OPTIONS, TEXT_SIGNS
from .nested_values import write_line
from .resuming import check_same_config, find_checkpoint
from .text_files import read_text
from .trust import Trust, find_names
from .user_paths import expand_path

#: Sections that a checkpoint's run lends to validate, test and predict.
LENT_KEYS = ("seed_everything", "model", "data", "federation", "evaluation", "samples", "run")

#: Sections that are mappings of keys.
SECTIONS = (
    *("trainer", "model", "training", "federation", "federation_log", "replanning"),
    *("evaluation", "best_round", "budget", "samples", "run", "report", "wandb"),
)

NEEDS_CHECKPOINT = "this command needs --ckpt_path runs/.../last.ckpt"


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
            config["ckpt_path"],
        )


@dataclass(frozen=True)
class Command:
    """A command's options, completed.

    Args:
        arguments: The subcommand and its options, with what a checkpoint lends before the user's.
        trust: What the lent configuration may name, or None where none is lent.
        allowed: Keys that may differ from those of the run that goes on.
        named: Import paths in the user's own files and options.
    """

    arguments: list[str]
    trust: Trust | None = None
    allowed: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()


def complete_command(arguments: Sequence[str]) -> Command:
    """Give a command the configuration of --ckpt_path's run, where it has no other.

    Args:
        arguments: Subcommand and its options.

    Raises:
        HuscfError: Where a command other than fit has neither, or the checkpoint's configuration
            names code that the user does not trust.
    """
    options = ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--trust", nargs="+", action="extend", default=[])
    options.add_argument("--allow_changed", nargs="+", action="extend", default=[])
    found, own = options.parse_known_args(list(arguments[1:]))
    own, read = _read_config_files(own)
    _check_sections(read)
    files = [content for _, content in read]
    named = find_own_names(own, files)
    trust = Trust(tuple(found.trust), named)
    own = [arguments[0], *own]
    allowed = tuple(found.allow_changed)
    if allowed and own[0] != "fit":
        raise HuscfError("--allow_changed: only fit goes on with a run")
    asks_only = any(option.startswith(("-h", "--help", "--print_config")) for option in own)
    lender = None if own[0] == "fit" or asks_only else _find_lender(own, files)
    if lender is None:
        return Command(own, allowed=allowed, named=named)
    path, config = lender
    # The trainer's section is not lent, so that its loggers and callbacks are not made.
    parts = (
        {k: v for k, v in config.items() if k != "trainer"}
        if isinstance(config, Mapping)
        else config
    )
    trust.check(parts, f"checkpoint {path}")
    lent = {key: config[key] for key in LENT_KEYS if key in config}
    return Command(
        [own[0], "--config", write_line(lent), *own[1:], "--ckpt_path", path], trust, (), named
    )


def _find_lender(
    arguments: Sequence[str], files: Sequence[Any]
) -> tuple[str, dict[str, Any]] | None:
    """Return the checkpoint that a command is given and its configuration, if it has one."""
    options = ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--config", "-c")
    options.add_argument("--ckpt_path")
    options.add_argument("--run.name", dest="name", default=_find_run_name(files))
    options.add_argument("--trainer.default_root_dir", dest="root", default="runs")
    found, _ = options.parse_known_args(list(arguments[1:]))
    if found.ckpt_path is None:
        if found.config:
            return None
        raise HuscfError(NEEDS_CHECKPOINT)
    given = str(expand_path(found.ckpt_path))
    path = find_checkpoint(given, expand_path(found.root), found.name)
    config = read_checkpoint(path).get("huscf_config")
    if config is None:
        if found.config:
            return None
        raise CheckpointError(f"checkpoint {path}: was not made by huscf fit; give --config too")
    return path, config


def _read_config_files(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """Return a command's options as the parser can read them, and what their files hold.

    The parser knows neither ~ nor other encodings than UTF-8: it gets the path in full, or the
    text of the file in its place.

    Args:
        arguments: Options of the command.

    Returns:
        The options, and path and content of every configuration file.

    Raises:
        HuscfError: Naming the file that is no YAML, and where it is not, or a configuration that is
            no mapping.
    """
    given: list[str] = []
    found: list[tuple[str, Any]] = []
    for argument in arguments:
        is_option = argument.startswith("-")
        option, mark, value = argument.partition("=") if is_option else ("", "", argument)
        is_config = (option or (given and given[-1])) in OPTIONS and not TEXT_SIGNS & set(value)
        is_named = is_config or value.endswith((".yaml", ".yml"))
        if is_named and value and (path := expand_path(value)).is_file():
            text = _read_text(path)
            content = _parse_yaml(text, path)
            if is_config and not isinstance(content, Mapping):
                raise HuscfError(f"{path}: not a configuration: needs keys such as data: or model:")
            found.append((str(path), content))
            value = str(path) if _is_utf8(path) else text
        given.append(f"{option}{mark}{value}")
    return given, found


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise HuscfError(f"{path}: not a configuration: {error}") from error


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise HuscfError(f"{path}{where}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise HuscfError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _check_sections(files: Sequence[tuple[str, Any]]) -> None:
    """Refuse a section that is no mapping, which the parser would take for its defaults."""
    for path, content in files:
        for key, value in content.items() if isinstance(content, Mapping) else ():
            if key in SECTIONS and not isinstance(value, (Mapping, str, type(None))):
                raise HuscfError(f"{path}: {key} is {value!r:.80}, must be a mapping of its keys")


def _find_run_name(files: Sequence[Any]) -> str | None:
    """Return the name that the last of some configurations gives to the run."""
    runs = [file.get("run") for file in files if isinstance(file, Mapping)]
    names = [run.get("name") for run in runs if isinstance(run, Mapping)]
    return next((str(name) for name in reversed(names) if name is not None), None)


def find_own_names(arguments: Sequence[str], files: Sequence[Any] = ()) -> frozenset[str]:
    """Return the import paths in the user's own configuration files and options."""
    texts = [a.partition("=")[2] if a.startswith("--") else a for a in arguments]
    names = find_names([*texts, *files])
    return frozenset(name for name in names if not Path(name).exists())
