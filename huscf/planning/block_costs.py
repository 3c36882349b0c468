"""What each block of a network costs, measured from the block itself."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..models import Network, SampleShape
from .flop_tally import FlopTally

InputMaker = Callable[[int], tuple[Tensor, Tensor]]

# Work and outputs are proportional to the batch size, and what is saved is affine in it, so two
# tiny batches give the costs of any.
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
        discriminator_batches: Batches that the discriminator is trained on in a step: fakes and
            reals, and as a third reals with wrong labels where a run has them throughout.
    """

    generator: tuple[BlockCost, ...]
    discriminator: tuple[BlockCost, ...]
    discriminator_batches: int = 2


def measure_plan_costs(
    networks: tuple[Network, Network],
    shape: SampleShape,
    latent_dim: int,
    batch_size: int,
    in_bf16: bool = False,
) -> PlanCosts:
    """Measure generator and discriminator; neither they nor the random state are changed.

    Args:
        networks: Generator and discriminator, on any device; noise and samples have the number
            format of the generator's parameters.
        shape: Shape of the samples.
        latent_dim: Length of the noise vector.
        batch_size: Samples per step that the costs are for, at least 1.
        in_bf16: See measure_block_costs.
    """
    generator, discriminator = networks
    dtype = next(generator.parameters()).dtype

    def make_noise(batch: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch, latent_dim, dtype=dtype), _make_labels(batch)

    def make_samples(batch: int) -> tuple[Tensor, Tensor]:
        size = (batch, shape.channels, shape.image_size, shape.image_size)
        return torch.zeros(size, dtype=dtype), _make_labels(batch)

    return PlanCosts(
        measure_block_costs(generator, make_noise, batch_size, in_bf16),
        measure_block_costs(discriminator, make_samples, batch_size, in_bf16),
    )


def measure_block_costs(
    network: Network,
    make_inputs: InputMaker,
    batch_size: int,
    in_bf16: bool = False,
) -> tuple[BlockCost, ...]:
    """Measure every block of one network, on a copy of it on the CPU.

    Args:
        network: The full network.
        make_inputs: Batch size -> inputs (B, ...) of the network's number format, labels (B,).
        batch_size: Samples per step that the costs are for, at least 1.
        in_bf16: Whether blocks compute in bfloat16 mixed precision, as PyTorch's autocast does it
            on the CPU; parameters keep their format.
    """
    if batch_size < 1:
        raise PlanError(f"batch_size is {batch_size}, must be >= 1")
    trial = copy.deepcopy(network).to("cpu").train()
    num_threads = torch.get_num_threads()
    # Threads that wait for one another on a busy machine take longer than so little work.
    torch.set_num_threads(1)
    try:
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=in_bf16, cache_enabled=False)
        with torch.random.fork_rng(devices=[]), mixed:
            low, activations = _measure_saved_bytes(trial, *make_inputs(_SMALL_BATCH))
            high, _ = _measure_saved_bytes(trial, *make_inputs(_LARGE_BATCH))
            labels = make_inputs(_SMALL_BATCH)[1]
            flops = [
                _count_flops(block, activations[place], () if place else (labels,))
                for place, block in enumerate(trial)
            ]
    finally:
        torch.set_num_threads(num_threads)
    sizes = [output.numel() * output.element_size() for output in activations[1:]]
    return tuple(
        _join_cost(*figures, batch_size)
        for figures in zip(trial, flops, low, high, sizes, strict=True)
    )


def _make_labels(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.int64)


def _join_cost(
    block: nn.Module, flops: tuple[int, ...], low: int, high: int, output_bytes: int, batch: int
) -> BlockCost:
    saved = low + (batch - _SMALL_BATCH) / (_LARGE_BATCH - _SMALL_BATCH) * (high - low)
    params = list(block.parameters())
    return BlockCost(
        forward_flops=flops[0] / _SMALL_BATCH,
        input_gradient_flops=flops[1] / _SMALL_BATCH,
        parameter_gradient_flops=flops[2] / _SMALL_BATCH,
        backward_flops=flops[3] / _SMALL_BATCH,
        output_bytes=output_bytes / _SMALL_BATCH,
        saved_bytes=saved / batch,
        param_bytes=sum(p.numel() * p.element_size() for p in params),
        num_params=sum(p.numel() for p in params),
    )


def _measure_saved_bytes(
    network: Network, inputs: Tensor, labels: Tensor
) -> tuple[list[int], list[Tensor]]:
    """Return each block's newly kept bytes, and the activations: the inputs and every output."""
    kept = {p.untyped_storage().data_ptr(): p.detach() for p in network.parameters()}
    counts: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = tensor  # alive, so that no other takes its address
            counts[-1] += storage.nbytes()
        return tensor

    activations = [inputs]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for place, block in enumerate(network):
            counts.append(0)
            extra = () if place else (labels,)
            activations.append(block(activations[-1], *extra))
    return counts, activations


def _count_flops(block: nn.Module, inputs: Tensor, extra: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Count forward, input gradient, parameter gradient and full backward work of one block."""
    leaf = inputs.detach().requires_grad_()
    params = [p for p in block.parameters() if p.requires_grad]
    with FlopTally() as forward:
        # A block may work in place, which autograd forbids on a leaf.
        outputs = block(leaf.clone(), *extra)
    work = [forward.flops]
    for wanted in ([leaf], params, [leaf, *params]):
        with FlopTally() as backward:
            if wanted:
                torch.autograd.grad(outputs.sum(), wanted, retain_graph=True, allow_unused=True)
        work.append(backward.flops)
    return tuple(work)
