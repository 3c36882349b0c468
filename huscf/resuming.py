"""Whether a run can go on from a checkpoint, and from which: configuration, data, what is left."""

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from .errors import CheckpointError, HuscfError
from .nested_values import flatten

#: Sections of the configuration that may differ when a run is resumed.
FREE_KEYS = (
    *("trainer", "training", "run", "samples", "evaluation", "report", "wandb"),
    *("federation_log", "best_round", "budget", "ckpt_path", "weights_only"),
)

#: Keys of the data that say where they lie, not what they are: what they are is compared itself.
PLACE_KEYS = ("root", "cache_dir", "download")

#: Keys of the model that say how it is evaluated and run, not what is trained: they may differ.
EVALUATION_KEYS = (
    "num_evaluated_per_class",
    "num_evaluated_clients",
    "num_evaluated_seeds",
    "num_yardstick_clients",
    "protocol",
    "plain_judge",
    "inception",
    "engine",
)


class NothingLeft(Exception):
    """A run that shall go on is finished: no error, since a job that is queued twice ends so."""


def find_newest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder: last.ckpt, or a round's that is newer.

    A round's is newer where last.ckpt could not be written after it, as on a full disk.
    """
    last = folder / "checkpoints" / "last.ckpt"
    rounds = sorted((folder / "checkpoints").glob("round-*.ckpt"))
    if not last.is_file():
        return rounds[-1] if rounds else None
    is_newer = bool(rounds) and rounds[-1].stat().st_mtime > last.stat().st_mtime
    return rounds[-1] if is_newer else last


def find_checkpoint(given: str, root: Path, name: str | None = None) -> str:
    """Return the file meant by "last", "best", RUN, RUN/last, RUN/best or its own path.

    Args:
        given: What the user says; "last" and "best" alone are of the newest run, a run's folder
            alone is its newest checkpoint.
        root: Folder of runs.
        name: Of the run, without its number; None takes any.

    Raises:
        CheckpointError: Where there is none.
    """
    if given in WHICH:
        return find_last_checkpoint(root, name, given)
    path = Path(given)
    if path.is_dir():
        if (newest := find_newest(path)) is None:
            last = path / "checkpoints" / "last.ckpt"
            raise CheckpointError(
                f"checkpoint {path}: a folder, and there is no {last}; name a file"
            )
        return str(newest)
    if path.name not in WHICH or path.exists() or not path.parent.is_dir():
        return given
    if (found := WHICH[path.name](path.parent)) is None:
        raise CheckpointError(
            f"--ckpt_path {given}: the run has no such checkpoint{_HINTS[path.name]}"
        )
    return str(found)


def find_best(folder: Path) -> Path | None:
    """Return the checkpoint of a run's best round, or None where it has none."""
    best = folder / "checkpoints" / "best.ckpt"
    return best if best.is_file() else None


#: Checkpoints of a run's folder by what they are called.
WHICH: dict[str, Callable[[Path], Path | None]] = {"last": find_newest, "best": find_best}

_HINTS = {"last": "", "best": ", which clients decide about by what data.held_out keeps apart"}


def find_last_checkpoint(root: Path, name: str | None = None, which: str = "last") -> str:
    """Return the newest run's checkpoint below a folder, and say which it is.

    Args:
        root: Folder of runs.
        name: Of the run, without its number; None takes any.
        which: "last" or "best".

    Raises:
        CheckpointError: Where there is none, naming the runs that there are.
    """
    found = filter(None, map(WHICH[which], sorted(root.glob("*"))))
    files = sorted(found, key=lambda path: path.stat().st_mtime)
    wanted = [file for file in files if name is None or _is_named(file.parents[1].name, name)]
    if not wanted:
        called = "" if name is None else f" of the name {name}"
        others = ", ".join(str(file.parents[1]) for file in reversed(files[-5:]))
        raise CheckpointError(
            f"--ckpt_path {which}: no run{called} with a checkpoint below {root}{_HINTS[which]}; "
            "name a file, or "
            "(fit, validate, test) the folder with --trainer.default_root_dir"
            + (f"; others there: {others}" if others else "")
        )
    print(f"--ckpt_path {which}: {wanted[-1]}", flush=True)
    return str(wanted[-1])


def check_same_config(
    saved: dict[str, Any], current: dict[str, Any], owner: str, allowed: Sequence[str] = ()
) -> list[str]:
    """Return the differences between two configurations that are allowed.

    An argument that the checkpoint does not know, as one of an older version, had its default.

    Args:
        saved: The checkpoint's.
        current: The present one.
        owner: The checkpoint's path.
        allowed: Dotted keys that may differ, or of sections.

    Raises:
        CheckpointError: Listing the other differences, or naming an allowed key that is unknown.
    """
    old, new = flatten(saved), flatten(current)
    for wanted in allowed:
        if not any(_is_below(key, wanted) for key in old.keys() | new.keys()):
            near = difflib.get_close_matches(wanted, sorted(new), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise HuscfError(f"--allow_changed {wanted}: there is no such key{hint}")
    differing = [
        key
        for key in sorted(old.keys() | new.keys())
        if not _is_free(key)
        and old.get(key) != new.get(key)
        and (key in old or not _is_default(key, new))
    ]
    refused = [key for key in differing if not any(_is_below(key, one) for one in allowed)]
    if refused:
        raise CheckpointError(
            f"checkpoint {owner} belongs to other hyper-parameters (checkpoint -> now): "
            f"{'; '.join(_describe(key, old, new) for key in refused)}; give the run's own, or go "
            f"on with a change by --allow_changed {refused[0]}"
        )
    return [_describe(key, old, new) for key in differing]


def check_same_data(
    saved: Mapping[int, str] | None,
    digests: Mapping[int, str],
    owner: str,
    may_join: bool = False,
) -> None:
    """Raise a CheckpointError that names the clients whose data a run did not begin with.

    Args:
        saved: Digests of the data that the run began with; None where nobody knows.
        digests: The present clients', from `FederatedDataModule.client_digests`.
        owner: The checkpoint's path.
        may_join: Whether clients that it did not begin with join; they are named then.
    """
    new = [] if saved is None or not may_join else sorted(digests.keys() - saved.keys())
    if new:
        print(f"clients that join the run: {', '.join(map(str, new))}", flush=True)
    if changed := find_changed_clients(saved, {c: digests[c] for c in digests if c not in new}):
        raise CheckpointError(
            f"checkpoint {owner} belongs to other data: that of {len(changed)} clients has "
            f"changed, of client {changed[0]} first; give the run's own data, or begin a new run"
        )


def check_joining(
    saved: Mapping[int, str] | None, trained: Iterable[int], present: Iterable[int], owner: str
) -> None:
    """Refuse clients that join where nothing tells who the others are: numbers may have shifted.

    Args:
        saved: Digests of the data that the run began with; None where nobody knows.
        trained: The checkpoint's clients.
        present: Those that are here.
        owner: The checkpoint's path.

    Raises:
        CheckpointError: Naming those that would join.
    """
    if saved is None and (new := sorted({*present} - {*trained})):
        raise CheckpointError(
            f"checkpoint {owner} lies in no run's folder, so nothing tells that clients "
            f"{', '.join(map(str, new))} are the new ones: go on from the run's own folder"
        )


def find_changed_clients(saved: Mapping[int, str] | None, digests: Mapping[int, str]) -> list[int]:
    """Return the clients whose data are not those that a run began with; see check_same_data."""
    before = digests if saved is None else saved
    return [c for c in sorted(before.keys() | digests.keys()) if before.get(c) != digests.get(c)]


def check_unfinished(
    checkpoint: dict[str, Any], trainer: Trainer, path: str, is_open: bool = False
) -> None:
    """Raise a NothingLeft where a checkpoint has all epochs or steps that are asked for.

    Args:
        checkpoint: Where the run goes on.
        trainer: How far it shall go.
        path: The checkpoint's.
        is_open: Whether the run was ended before it had written its last pictures and its page,
            which are left to do then.
    """
    try:
        epochs = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: damaged: its loops lack their counts") from error
    for name, done, wanted in (
        ("epochs", epochs, trainer.max_epochs),
        ("steps", checkpoint["global_step"], trainer.max_steps),
    ):
        if wanted is not None and 0 <= wanted <= done - is_open:
            raise NothingLeft(
                f"nothing is left to do: {path} has {done} {name}, and trainer.max_{name} is "
                f"{wanted}; raise that to go on"
            )


def _is_free(key: str) -> bool:
    section, _, rest = key.partition(".")
    if section == "data":
        return rest.startswith("init_args.") and rest.partition(".")[2] in PLACE_KEYS
    return section in FREE_KEYS or (
        section == "model" and rest.partition(".")[0] in EVALUATION_KEYS
    )


def _is_default(key: str, values: Mapping[str, object]) -> bool:
    """Return whether an argument of a class that has been made has its default."""
    owner, _, name = key.rpartition(".init_args.")
    module, _, class_name = str(values.get(f"{owner}.class_path")).rpartition(".")
    made = getattr(sys.modules.get(module), class_name, None)
    if not callable(made) or name not in (known := inspect.signature(made).parameters):
        return False
    default = known[name].default
    return bool((list(default) if isinstance(default, tuple) else default) == values.get(key))


def _is_below(key: str, section: str) -> bool:
    """Return whether a key is a section's; "init_args" may be left out, as on the command line."""
    key, section = (f"{name}.".replace(".init_args.", ".") for name in (key, section))
    return key.startswith(section)


def _is_named(folder: str, name: str) -> bool:
    """Return whether a run's folder is of a name: <name>-<number>."""
    return folder.startswith(f"{name}-") and folder[len(name) + 1 :].isdecimal()


def _describe(key: str, old: Mapping[str, object], new: Mapping[str, object]) -> str:
    return f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}"
