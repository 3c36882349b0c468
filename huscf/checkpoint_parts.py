"""What the parts of a checkpoint must be, so that a malformed one is refused in one line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError

Check = Callable[[Any], bool]


def check_parts(checkpoint: Mapping[str, Any], file: Path) -> None:
    """Refuse a checkpoint in which a part is not what huscf writes there.

    Args:
        checkpoint: What was read; parts that are missing are the reader's concern.
        file: Where from, for the message.

    Raises:
        CheckpointError: Naming file and part.
    """
    for key, (is_right, wanted) in _PARTS.items():
        value, name = checkpoint, key
        for step in key.split("/"):
            if not isinstance(value, Mapping) or step not in value:
                break
            value = value[step]
        else:
            if not is_right(value):
                raise CheckpointError(
                    f"checkpoint {file}: damaged or not of huscf: {name} must be {wanted}, "
                    f"got {_describe(value)}"
                )
    _check_clients(checkpoint.get("huscf", {}), file)


def _check_clients(state: Mapping[str, Any], file: Path) -> None:
    """Refuse clusters that are not of the plan's clients; the plan's own form is checked later."""
    engine = state.get("engine", {})
    clusters, clients = engine.get("clusters"), engine.get("plan", {}).get("clients")
    if clusters is None or not isinstance(clients, list):
        return
    planned = {client.get("client") for client in clients if isinstance(client, Mapping)}
    if planned != set(clusters):
        raise CheckpointError(
            f"checkpoint {file}: damaged or not of huscf: huscf/engine/clusters are of other "
            "clients than huscf/engine/plan"
        )


def check_kept_files(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a checkpoint that would let Lightning delete other files than old checkpoints.

    Lightning deletes the checkpoints that a resumed run replaces, by the paths that the checkpoint
    gives.

    Raises:
        CheckpointError: Naming the file.
    """
    for state in checkpoint["callbacks"].values():
        kept = state.get("best_k_models") if isinstance(state, Mapping) else None
        if not isinstance(kept, Mapping):
            continue
        named = [*kept, *(state.get(f"{k}_model_path") for k in ("best", "kth_best", "last"))]
        folder = Path(str(state.get("dirpath")))
        for name in filter(None, named):
            file = Path(str(name))
            if folder not in file.parents or ".." in file.parts or file.suffix != ".ckpt":
                raise CheckpointError(
                    f"checkpoint {path}: it names {name} as a checkpoint of {folder}, where "
                    "it does not lie; resuming could delete it"
                )


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number >= 0."""
    return type(value) is int and value >= 0


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_named_states(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_mapping, value.values()))


def _is_optimizers(value: Any) -> bool:
    """Return whether a value is party -> network -> parameter -> state."""
    return _is_named_states(value) and all(
        _is_mapping(networks) and all(map(_is_named_states, networks.values()))
        for networks in value.values()
    )


def _is_section(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _is_client_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(is_count, [*value, *value.values()]))


def _is_traffic(value: Any) -> bool:
    rows = value if isinstance(value, list) else [None]
    return all(isinstance(row, list) and len(row) > 1 and is_count(row[-1]) for row in rows)


def _is_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
    )


def _is_stream(value: Any) -> bool:
    own = torch.get_rng_state()
    return isinstance(value, torch.Tensor) and (value.dtype, value.shape) == (own.dtype, own.shape)


def _is_remembered(value: Any) -> bool:
    return (
        _is_named_states(value)
        and all(map(is_count, value))
        and all(map(_is_sizes, value.values()))
    )


def _is_sizes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(type(size) is float for size in value.values())


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _is_client_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(is_count, value)) and _is_names([*value.values()])


def _is_names_by_name(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and _is_names([*value]) and all(map(_is_names, value.values()))
    )


def _describe(value: Any) -> str:
    """Return a value in few words, without the signs that steer a terminal."""
    if isinstance(value, (int, float, str)):
        return f"{value!r:.40}"
    size = f" of {len(value)}" if isinstance(value, (Mapping, list, tuple)) else ""
    return "nothing" if value is None else f"a {type(value).__name__}{size}"


_COUNT: tuple[Check, str] = (is_count, "a whole number >= 0")
_MAPPING: tuple[Check, str] = (_is_mapping, "a mapping")
_SECTION: tuple[Check, str] = (_is_section, "a mapping")
_CLIENTS: tuple[Check, str] = (_is_client_counts, "whole numbers >= 0 by client")

#: What the parts must be, by their place; those of a mapping after the mapping.
_PARTS: dict[str, tuple[Check, str]] = {
    "state_dict": (_is_tensors, "tensors by name"),
    "global_step": _COUNT,
    "epoch": _COUNT,
    "loops": _MAPPING,
    "callbacks": (_is_named_states, "a mapping of the callbacks' states"),
    "optimizer_states": (_is_list, "a list"),
    "lr_schedulers": (_is_list, "a list"),
    "huscf": _MAPPING,
    "huscf/engine": _MAPPING,
    "huscf/engine/plan": _MAPPING,
    "huscf/engine/clusters": (
        lambda value: bool(value) and _is_client_counts(value),
        "a cluster >= 0 for each of some clients",
    ),
    "huscf/engine/route": (
        lambda value: bool(value) and _is_client_counts(value),
        "a copy >= 0 for each of some clients",
    ),
    "huscf/engine/num_dropped": _CLIENTS,
    "huscf/engine/traffic": _MAPPING,
    "huscf/engine/traffic/num_bytes": (_is_traffic, "a list of rows, each with its bytes"),
    "huscf/engine/statistics": _MAPPING,
    "huscf/engine/guard": _MAPPING,
    "huscf/engine/guard/usual": (_is_sizes, "numbers by name"),
    "huscf/engine/remembered": (_is_remembered, "numbers by name for each of some clients"),
    "huscf/engine/optimizers": (_is_optimizers, "a mapping of the parties' states"),
    "huscf/num_rounds": _COUNT,
    "huscf/torch_rng": (_is_stream, "the state of torch's random stream"),
    "huscf_config": _SECTION,
    "huscf_config/model": _MAPPING,
    "huscf_config/data": _MAPPING,
    "huscf_data": _SECTION,
    "huscf_data/sample_shape": _MAPPING,
    "huscf_data/class_names": (_is_names, "a list of names"),
    "huscf_data/num_classes": _CLIENTS,
    "huscf_data/domains": (_is_client_names, "a name for each of some clients"),
    "huscf_data/domain_class_names": (_is_names_by_name, "lists of names by domain"),
    "huscf_data/spectrogram": _SECTION,
    "huscf_data/client_digests": _MAPPING,
}
