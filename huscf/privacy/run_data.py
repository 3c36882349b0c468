"""A checkpoint's data, made as its run made them, and refused where they have changed."""

import copy
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from ..callbacks.run_folder import read_digests
from ..checkpoint_io import read_checkpoint
from ..datamodules import FederatedDataModule
from ..errors import CheckpointError, HuscfError
from ..resuming import check_same_data
from ..trust import Trust, parsing


def load_data(
    path: Path, trusted: Sequence[str] = (), root: Path | None = None
) -> FederatedDataModule:
    """Return the data of a checkpoint's run.

    Args:
        path: The checkpoint.
        trusted: Packages, beside huscf, whose classes the checkpoint may name.
        root: Where the data lie, if elsewhere than when the run was made.

    Raises:
        CheckpointError: Where the checkpoint says of no data, or those that are there are others.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint.get("huscf_config") or {}
    section = copy.deepcopy(config.get("data"))
    if not isinstance(section, dict) or checkpoint.get("huscf_data") is None:
        raise CheckpointError(f"checkpoint {path}: has no data of its own, which an audit needs")
    Trust(tuple(trusted)).check({"data": section}, f"checkpoint {path}")
    arguments = section.setdefault("init_args", {})
    arguments["seed"] = config.get("seed_everything", 0)
    if root is not None:
        arguments["root"] = str(root)
    data = _build(section, tuple(trusted), path)
    check_same_data(read_digests(path), data.client_digests, str(path))
    return data


def _build(section: dict, trusted: tuple[str, ...], path: Path) -> FederatedDataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=FederatedDataModule)
    try:
        with parsing(Trust(trusted)):
            return parser.instantiate_classes(parser.parse_object({"data": section})).data
    except HuscfError:
        raise
    except (ArgumentError, ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint {path}: its data cannot be made: {reason}") from error
