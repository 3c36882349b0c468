"""What each block of a network costs, measured from the block itself."""

import copy
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..models import Network, SampleShape
from .flop_tally import FlopTally

InputMaker = Callable[[int], tuple[Tensor, Tensor]]

# Work and bytes are affine in the batch size, so two tiny batches give those of any batch.
_SMALL_BATCH, _LARGE_BATCH = 2, 3


@dataclass(frozen=True)
class BlockCost:
    """One block's costs; all but the parameters are per sample, at the batch size measured for.

    Args:
        forward_flops: Matrix-product and convolution work; a multiply-add counts as 2. What
            moves memory rather than computes (norms, activations) is not counted.
        input_gradient_flops: Work of the gradient of the block's input alone.
        parameter_gradient_flops: Work of the gradients of the block's parameters alone.
        backward_flops: Work of both together; less than their sum where they share a part.
        output_bytes: Size of the block's output, which crosses a cut behind the block.
        saved_bytes: What autograd keeps for the backward pass and no earlier block has kept.
        param_bytes: Size of the parameters.
        num_params: Number of parameters.
    """

    forward_flops: float
    input_gradient_flops: float
    parameter_gradient_flops: float
    backward_flops: float
    output_bytes: float
    saved_bytes: float
    param_bytes: int
    num_params: int


@dataclass(frozen=True)
class PlanCosts:
    """The costs of both networks, block by block in forward order.

    Args:
        generator: One entry per block.
        discriminator: One entry per block.
    """

    generator: tuple[BlockCost, ...]
    discriminator: tuple[BlockCost, ...]


def measure_plan_costs(
    networks: tuple[Network, Network],
    shape: SampleShape,
    latent_dim: int,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> PlanCosts:
    """Measure generator and discriminator; neither they nor the random state are changed.

    Args:
        networks: Generator and discriminator, on any device.
        shape: Shape of the samples.
        latent_dim: Length of the noise vector.
        batch_size: Samples per step that the costs are for, at least 1.
        dtype: Number format of parameters and activations.
    """

    def make_noise(batch: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch, latent_dim, dtype=dtype), _make_labels(batch)

    def make_samples(batch: int) -> tuple[Tensor, Tensor]:
        size = (batch, shape.channels, shape.image_size, shape.image_size)
        return torch.zeros(size, dtype=dtype), _make_labels(batch)

    generator, discriminator = networks
    return PlanCosts(
        measure_block_costs(generator, make_noise, batch_size, dtype),
        measure_block_costs(discriminator, make_samples, batch_size, dtype),
    )


def measure_block_costs(
    network: Network, make_inputs: InputMaker, batch_size: int, dtype: torch.dtype = torch.float32
) -> tuple[BlockCost, ...]:
    """Measure every block of one network, on a copy of it on the CPU.

    Args:
        network: The full network.
        make_inputs: Batch size -> inputs (B, ...) of the given dtype and labels (B,).
        batch_size: Samples per step that the costs are for, at least 1.
        dtype: Number format of parameters and activations.
    """
    if batch_size < 1:
        raise PlanError(f"batch_size is {batch_size}, must be >= 1")
    trial = copy.deepcopy(network).to("cpu", dtype).train()
    small = _measure_batch(trial, *make_inputs(_SMALL_BATCH))
    large = _measure_batch(trial, *make_inputs(_LARGE_BATCH))
    return tuple(
        _extrapolate(block, low, high, batch_size)
        for block, low, high in zip(trial, small, large, strict=True)
    )


def _make_labels(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.int64)


@dataclass(frozen=True)
class _BatchCost:
    forward_flops: float
    input_gradient_flops: float
    parameter_gradient_flops: float
    backward_flops: float
    output_bytes: float
    saved_bytes: float


def _extrapolate(block: nn.Module, low: _BatchCost, high: _BatchCost, batch: int) -> BlockCost:
    step = (batch - _SMALL_BATCH) / (_LARGE_BATCH - _SMALL_BATCH)
    per_sample = {
        field.name: (small + step * (large - small)) / batch
        for field, small, large in zip(fields(low), astuple(low), astuple(high), strict=True)
    }
    params = list(block.parameters())
    return BlockCost(
        **per_sample,
        param_bytes=sum(p.numel() * p.element_size() for p in params),
        num_params=sum(p.numel() for p in params),
    )


def _measure_batch(network: Network, inputs: Tensor, labels: Tensor) -> list[_BatchCost]:
    costs = []
    kept: dict[int, Tensor] = {}  # storage address -> a tensor on it, kept alive
    for parameter in network.parameters():
        kept[parameter.untyped_storage().data_ptr()] = parameter
    for position, block in enumerate(network):
        extra = () if position else (labels,)
        flops, outputs = _count_flops(block, inputs, extra)
        saved_bytes, kept_output = _measure_saved_bytes(block, inputs, extra, kept)
        output_bytes = outputs.numel() * outputs.element_size()
        costs.append(_BatchCost(*flops, output_bytes, saved_bytes))
        inputs = kept_output
    return costs


def _count_flops(
    block: nn.Module, inputs: Tensor, extra: tuple[Tensor, ...]
) -> tuple[tuple[int, ...], Tensor]:
    """Count forward, input gradient, parameter gradient and full backward work of one block."""
    leaf = inputs.detach().requires_grad_()
    params = list(block.parameters())
    with FlopTally() as forward:
        # A block may work in place, which autograd forbids on a leaf.
        outputs = block(leaf.clone(), *extra)
    work = [forward.flops]
    for wanted in ([leaf], params, [leaf, *params]):
        with FlopTally() as backward:
            if wanted:
                torch.autograd.grad(outputs.sum(), wanted, retain_graph=True, allow_unused=True)
        work.append(backward.flops)
    return tuple(work), outputs.detach()


def _measure_saved_bytes(
    block: nn.Module, inputs: Tensor, extra: tuple[Tensor, ...], kept: dict[int, Tensor]
) -> tuple[int, Tensor]:
    """Run a block in the network's own graph; count newly kept storages, and return its output."""
    num_bytes = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal num_bytes
        address = tensor.untyped_storage().data_ptr()
        if address not in kept:
            kept[address] = tensor
            num_bytes += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = block(inputs, *extra)
    return num_bytes, outputs
