"""Surgery on an Adam optimiser: other parameters, cloned or averaged moments."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..federation import mix_tensors

Moments = Literal["keep", "average", "reset"]


def copy_state(optimizer: Optimizer, cloned_from: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Give every cloned parameter a copy of the state of the one that it was cloned from.

    Args:
        optimizer: Changed in place; pairs that it does not hold are passed over.
        cloned_from: Clone -> original.
    """
    for clone, original in cloned_from.items():
        if original in optimizer.state:
            state = optimizer.state[original]
            optimizer.state[clone] = {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in state.items()
            }


def replace_parameters(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Let the optimiser hold exactly these parameters, keeping the state of those it knew.

    Args:
        optimizer: With one parameter group; changed in place.
        parameters: In the order in which a checkpoint shall store them.
    """
    optimizer.param_groups[0]["params"] = list(parameters)
    wanted = set(parameters)
    for parameter in list(optimizer.state):
        if parameter not in wanted:
            del optimizer.state[parameter]


@torch.no_grad()
def mix_state(
    optimizer: Optimizer, copies: Sequence[nn.Module], matrix: Tensor, moments: Moments
) -> None:
    """Treat the moments of averaged copies of one block.

    Args:
        optimizer: Holds the state; changed in place.
        copies: C copies of one block.
        matrix: (C, C) that averaged their parameters.
        moments: "keep" each copy's own, "average" them by the same matrix, or "reset" to a first
            step's: zero, and the count of steps with them, which corrects their bias.
    """
    if moments == "keep":
        return
    if moments == "reset":
        forget_state(optimizer, [p for copy in copies for p in copy.parameters()])
        return
    for parameters in zip(*(copy.parameters() for copy in copies), strict=True):
        # Copies that were never trained, such as a server's that all clients hold, have no moments.
        known = [row for row, parameter in enumerate(parameters) if optimizer.state.get(parameter)]
        states = [optimizer.state[parameters[row]] for row in known]
        shares = matrix[known][:, known]
        totals = shares.sum(1, keepdim=True)
        shares = torch.where(totals > 0, shares / totals, torch.eye(len(known)).double())
        mix_tensors([[state["exp_avg"], state["exp_avg_sq"]] for state in states], shares)


def forget_state(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Let the next step of these parameters be like a first one."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)
