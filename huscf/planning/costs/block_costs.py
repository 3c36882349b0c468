"""What each block of a network costs, measured from the block itself."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import PlanError
from ...models import MAIN, Carry, Network, names_read, run_block
from .flop_tally import FlopTally

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


def measure_block_costs(
    network: Network,
    example: Mapping[str, Tensor],
    batch_size: int,
    in_bf16: bool = False,
) -> tuple[BlockCost, ...]:
    """Measure every block of one network, on a copy of it on the CPU.

    Args:
        network: The full network.
        example: What enters the network, by name, a batch of any size; only shapes and whether
            values are whole numbers count.
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
            low, carries = _measure_saved_bytes(trial, _make_inputs(trial, example, _SMALL_BATCH))
            high, _ = _measure_saved_bytes(trial, _make_inputs(trial, example, _LARGE_BATCH))
            flops = [
                _count_flops(block, [carry[name] for name in names_read(place, block)])
                for place, (block, carry) in enumerate(zip(trial, carries, strict=False))
            ]
    finally:
        torch.set_num_threads(num_threads)
    sizes = [carry[MAIN].nbytes for carry in carries[1:]]
    return tuple(
        _join_cost(*figures, batch_size)
        for figures in zip(trial, flops, low, high, sizes, strict=True)
    )


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


def _make_inputs(network: Network, example: Mapping[str, Tensor], batch_size: int) -> Carry:
    """Return zeros of a batch size, in the number format of the network's parameters."""
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    return {
        name: torch.zeros(
            batch_size,
            *tensor.shape[1:],
            dtype=dtype if tensor.is_floating_point() else tensor.dtype,
        )
        for name, tensor in example.items()
    }


def _measure_saved_bytes(network: Network, inputs: Carry) -> tuple[list[int], list[Carry]]:
    """Return each block's newly kept bytes, and what there is before and behind every block."""
    kept = {p.untyped_storage().data_ptr(): p.detach() for p in network.parameters()}
    counts: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = tensor  # alive, so that no other takes its address
            counts[-1] += storage.nbytes()
        return tensor

    carries = [inputs]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for place, block in enumerate(network):
            counts.append(0)
            carries.append({**carries[-1], **run_block(place, block, carries[-1])})
    return counts, carries


def _count_flops(block: nn.Module, inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """Count forward, input gradient, parameter gradient and full backward work of one block."""
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in inputs]
    leaf = [each for each in leaves if each.requires_grad]
    params = [p for p in block.parameters() if p.requires_grad]
    with FlopTally() as forward:
        # A block may work in place, which autograd forbids on a leaf.
        outputs = block(*(each.clone() for each in leaves))
    work = [forward.flops]
    total = sum(each.sum() for each in (outputs if isinstance(outputs, tuple) else (outputs,)))
    assert isinstance(total, Tensor)
    for wanted in (leaf, params, [*leaf, *params]):
        with FlopTally() as backward:
            if wanted:
                torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True)
        work.append(backward.flops)
    return tuple(work)
