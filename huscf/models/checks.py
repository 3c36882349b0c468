"""What is asked of a network before it is cut, and the scale of its first weights."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..errors import HuscfError
from .network import LABELS, MAIN, Carry, Network, name_outputs, names_read, names_written
from .spectral_norms import find_spectral_norms, renew_spectral_norms


def check_network(name: str, network: Network, inputs: Mapping[str, Tensor]) -> Carry:
    """Refuse what is no list of separate blocks or cannot run; changes nothing.

    Args:
        name: Of the network, for messages.
        network: The network.
        inputs: What it needs from outside, a batch of two.

    Returns:
        What the blocks made of the inputs, in evaluation mode.

    Raises:
        HuscfError: Naming the block, what it got and what is needed.
    """
    if not isinstance(network, Network):
        raise HuscfError(
            f"{name}: needs to be a huscf.models.Network([block, ...]), got "
            f"{type(network).__name__}"
        )
    _check_apart(name, network)
    values = dict(inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for index, block in enumerate(copy.deepcopy(network).eval()):
            values.update(_try_block(name, index, block, values))
    return values


def _check_apart(name: str, network: Network) -> None:
    owners: dict[nn.Parameter, int] = {}
    for index, block in enumerate(network):
        for parameter in block.parameters():
            if owners.setdefault(parameter, index) != index:
                raise HuscfError(
                    f"{name}: blocks {owners[parameter]} and {index} share a parameter, but each "
                    "block is copied apart: give each its own, or make one block of them"
                )


def _try_block(name: str, index: int, block: nn.Module, values: Carry) -> Carry:
    reads, writes = names_read(index, block), names_written(block)
    owner = f"{name}: block {index} ({type(block).__name__})"
    for needed in reads:
        if needed not in values:
            raise HuscfError(f"{owner} reads {needed}, which nobody gives; there are {[*values]}")
    given = {(MAIN,): "one tensor", (MAIN, LABELS): "(input, labels)"}.get(reads, str(reads))
    before = tuple(values[MAIN].shape)
    try:
        outputs: Any = block(*(values[needed] for needed in reads))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise HuscfError(f"{owner} gets {given} and fails on {before}: {reason}") from error
    each = (outputs,) if len(writes) == 1 else outputs
    is_carry = isinstance(each, tuple) and len(each) == len(writes)
    if not is_carry or not all(isinstance(own, Tensor) for own in each):
        wanted = "one tensor" if len(writes) == 1 else f"the tensors {', '.join(writes)}"
        raise HuscfError(f"{owner} gives {type(outputs).__name__}, needs to hand on {wanted}")
    return name_outputs(block, outputs)


@torch.no_grad()
def initialize_weights(network: nn.Module, std: float) -> None:
    """Draw the weights of linear layers and convolutions from N(0, std); their biases are 0.

    Everything else keeps its own: norms 1 and 0, embeddings N(0, 1), since at 0.02 samples ignored
    their labels. Parametrised weights are set through their parametrization, if it has an inverse.

    Args:
        network: Changed in place; uses torch's global random stream.
        std: Standard deviation of the weights; 0.02 is DCGAN's.
    """
    weighted = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Conv1d, nn.ConvTranspose1d)
    for module in network.modules():
        if isinstance(module, weighted):
            if not is_parametrized(module, "weight"):
                nn.init.normal_(module.weight, 0.0, std)
            elif all(hasattr(each, "right_inverse") for each in module.parametrizations.weight):  # type: ignore[union-attr]
                module.weight = nn.init.normal_(torch.empty_like(module.weight), 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    renew_spectral_norms(find_spectral_norms(network))
