"""The published latency figures' own way of counting work, derived from the blocks."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import PlanError
from ...models import MAIN, Network
from ...split import PlanRequest

# Work per output element, forward and backward.
_ELEMENTWISE: dict[type[nn.Module], tuple[int, int]] = {
    nn.BatchNorm1d: (8, 11),
    nn.BatchNorm2d: (8, 11),
    nn.ReLU: (1, 2),
    nn.LeakyReLU: (2, 3),
    nn.Tanh: (5, 3),
    nn.Sigmoid: (3, 2),
}

_WRONG_NETWORKS = (
    "latency_model: paper knows a generator and a discriminator, this method has {}: take corrected"
)


@dataclass(frozen=True)
class PaperBlockCost:
    """One block's costs per sample by the rules of the released code.

    Args:
        forward_flops: Work of the forward pass.
        backward_flops: Work of the backward pass.
        output_bytes: Size of the block's output.
    """

    forward_flops: float
    backward_flops: float
    output_bytes: float


@dataclass(frozen=True)
class PaperCosts:
    """The costs of both networks by the rules of the released code.

    Args:
        generator: One entry per block.
        discriminator: One entry per block.
    """

    generator: tuple[PaperBlockCost, ...]
    discriminator: tuple[PaperBlockCost, ...]


def count_paper_costs(request: PlanRequest) -> PaperCosts:
    """Count both networks' work as the released code does; the networks are not changed.

    Source: the code released with arXiv:2507.12979. It is here only to reproduce the published
    figures: it counts a transposed convolution by its output size, four times too much at stride 2.

    Args:
        request: Of a generator and a discriminator.

    Raises:
        PlanError: Where it is of other networks.
    """
    if set(request.networks) != {"generator", "discriminator"}:
        raise PlanError(_WRONG_NETWORKS.format(", ".join(request.networks)))
    blocks = count_paper_blocks(request)
    return PaperCosts(blocks["generator"], blocks["discriminator"])


def count_paper_blocks(request: PlanRequest) -> dict[str, tuple[PaperBlockCost, ...]]:
    """Count the work of a GAN's networks, by name, as `count_paper_costs` does.

    Raises:
        PlanError: Where it is of other networks.
    """
    if "generator" not in request.networks or "discriminator" not in request.networks:
        raise PlanError(_WRONG_NETWORKS.format(", ".join(request.networks)))
    found = {}
    for name, network in request.networks.items():
        blocks = list(network)
        if name == "discriminator":
            # Deviation: our discriminator ends in a logit, the released one in a sigmoid.
            blocks[-1] = nn.Sequential(blocks[-1], nn.Sigmoid())
        found[name] = _count_network(Network(blocks), request.inputs[name][MAIN][:1])
    return found


def _count_network(network: Network, inputs: Tensor) -> tuple[PaperBlockCost, ...]:
    trial = copy.deepcopy(network).to("cpu", torch.float32).eval()
    labels = torch.zeros(1, dtype=torch.int64)
    counts: list[tuple[int, int]] = []
    first_layer = next(m for m in trial.modules() if _is_weighted(m))

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(_count_layer(module, args[0], output, module is first_layer))

    for module in trial.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    costs = []
    with torch.no_grad():
        for position, block in enumerate(trial):
            counts.clear()
            inputs = block(inputs) if position else block(inputs, labels)
            forward, backward = (sum(work) for work in zip(*counts, strict=True))
            costs.append(PaperBlockCost(forward, backward, inputs.numel() * inputs.element_size()))
    return tuple(costs)


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)


def _count_layer(
    module: nn.Module, inputs: Tensor, output: Tensor, is_first: bool
) -> tuple[int, int]:
    elements = output.numel()
    if _is_weighted(module):
        products = 2 * elements * _fan_in(module)
        bias = elements if module.bias is not None else 0
        return products + bias, products * (1 if is_first else 2) + bias
    forward, backward = _ELEMENTWISE.get(type(module), (0, 0))
    return forward * elements, backward * elements


def _fan_in(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    return module.in_channels * module.kernel_size[0] * module.kernel_size[1]
