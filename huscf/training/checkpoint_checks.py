"""What a checkpoint must be before a run takes it over."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, check_complete
from ..methods import Method
from ..parties import Party

#: Version of what a checkpoint holds beside Lightning's own.
FORMAT = 2


def check_format(saved: Mapping[str, Any], owner: str) -> None:
    """Raise a CheckpointError unless what a checkpoint holds of huscf is of this version."""
    number = saved.get("format", 1) if isinstance(saved, Mapping) else "unknown"
    if number != FORMAT:
        age = "a later" if isinstance(number, int) and number > FORMAT else "an earlier"
        raise CheckpointError(
            f"{owner} was made by {age} version of huscf (format {number!r:.20}, here {FORMAT}): "
            "train anew, or go on with the version that wrote it"
        )


def check_run(saved: Mapping[str, Any], method: Method, only_draws: bool = False) -> None:
    """Raise a CheckpointError unless what a checkpoint holds of huscf is whole and of a method.

    Args:
        saved: What it holds.
        method: The run's.
        only_draws: Whether the networks that are drawn with are enough.
    """
    check_format(saved, "the checkpoint")
    if not only_draws:
        check_is_run(saved)
    check_complete(saved, ("engine", "method", "num_rounds", "torch_rng"))
    if saved["method"] != type(method).__name__:
        raise CheckpointError(
            f"the checkpoint is of method {saved['method']}, here {type(method).__name__}"
        )


def check_is_run(saved: Any) -> None:
    """Raise a CheckpointError where a checkpoint holds of huscf what a site draws with alone."""
    if isinstance(saved, Mapping) and saved.get("draws_only"):
        raise CheckpointError(
            "the checkpoint holds what a site draws with, and no run: huscf generate and export "
            "draw from it, and nothing else can"
        )


def check_moments(parties: Mapping[str, Party], method: Method) -> None:
    """Raise a CheckpointError that names the first optimiser state that is no such optimiser's.

    A tensor of another shape would spread over the parameter, or fail in the middle of a step.
    """
    for name, party in parties.items():
        for network, optimizer in party.optimizers.items():
            wanted = _make_moments(method, network) if optimizer.state else {}
            for parameter, values in optimizer.state.items():
                for key in [*wanted, *values]:
                    shape = list(parameter.shape) if wanted.get(key) == [1] else []
                    value = values.get(key)
                    if not isinstance(value, Tensor) or list(value.shape) != shape:
                        given = list(value.shape) if isinstance(value, Tensor) else f"{value!r:.40}"
                        raise CheckpointError(
                            f"the checkpoint's optimiser state is of another network or damaged: "
                            f"{key} of {name} {network} is {given}, must be a tensor {shape}"
                        )


def _make_moments(method: Method, network: str) -> dict[str, list[int]]:
    """Return the shapes of what a method's optimiser keeps for a parameter of one number."""
    probe = nn.Parameter(torch.zeros(1))
    probe.grad = torch.zeros(1)
    optimizer = method.make_optimizer(network, [probe])
    optimizer.step()
    return {k: list(v.shape) for k, v in optimizer.state[probe].items() if isinstance(v, Tensor)}


def check_same_network(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError that names the first tensor in which two networks differ."""
    for name in [*own, *saved]:
        shapes = [list(state[name].shape) if name in state else "none" for state in (saved, own)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"the checkpoint is of another network: {name} is {shapes[0]}, here {shapes[1]}"
            )


def add_fresh(
    saved: Mapping[str, Tensor], own: Mapping[str, Tensor], fresh: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors, and the own ones of parties that it does not know.

    Args:
        saved: The checkpoint's, by name.
        own: Those of the run.
        fresh: How the names of the latter begin, from `Engine.set_structure`.
    """
    return {n: t for n, t in own.items() if n.startswith(fresh)} | dict(saved)
