"""Several clients' batches side by side through their blocks, each client normalised on its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...models import LABELS, MAIN, Carry, LabelledBlock, names_read, run_block, run_blocks
from ...models.conditional_discriminator import DiscriminatorStem
from ...models.conditional_generator import GeneratorStem
from .layer_rules import Stack, look_up_each
from .norm_stats import NormStats
from .side_by_side import apply_rules, is_plain, is_samplewise, put_side_by_side

#: A client's blocks, by index in the full network.
Column = Mapping[int, nn.Module]


def can_stack(blocks: Iterable[nn.Module]) -> bool:
    """Return whether these blocks may run several clients' batches at once.

    True only where all is known to treat every sample alone and to draw no random numbers: layers
    with a rule, batch norms with running statistics, and blocks that say so of themselves.
    Subclasses, parametrised layers and hooks may do anything, so they do not count as known.
    """
    blocks = list(blocks)
    if any(_has_hooks(module) for block in blocks for module in block.modules()):
        return False
    return all(map(_is_known, blocks))


def run_stacked(
    columns: Sequence[Column], carry: Carry, deferred: list[NormStats] | None = None
) -> Carry:
    """Pass the batches of K clients through consecutive blocks, as if one after the other.

    Outputs and gradients equal those of K separate passes, to rounding; so do running statistics.

    Args:
        columns: The blocks of each client, for which `can_stack` holds; the same ones where the
            server runs them for all.
        carry: (B, K, ...) each, those of client k at [:, k].
        deferred: Gets what running statistics have to follow; None lets them follow at once.

    Returns:
        What was given and what the blocks wrote, (B, K, ...) each.
    """
    indices = sorted(columns[0])
    if not indices:
        return dict(carry)
    gathered: list[NormStats] = []
    values = dict(carry)
    stack = _begin(carry[MAIN])
    for index in indices:
        blocks = [column[index] for column in columns]
        if is_plain(blocks[0]):
            apply_rules(blocks, stack, gathered)
        elif _is_labelled(blocks[0]):
            stack = _begin(_join(blocks, stack.by_client(), values[LABELS]))
            for layers in zip(*(block.layers for block in blocks), strict=True):
                apply_rules(layers, stack, gathered)
        else:
            values[MAIN] = stack.by_client()
            values |= _run_forward(index, blocks, values, gathered)
            stack = _begin(values[MAIN])
    if deferred is None:
        for statistics in gathered:
            statistics.update_running_stats()
    else:
        deferred += gathered
    return {**values, MAIN: stack.by_client()}


def _run_forward(
    index: int, blocks: Sequence[nn.Module], carry: Carry, gathered: list[NormStats]
) -> Carry:
    """Return what blocks with a forward of their own write, by that of the first."""
    given = {name: carry[name].flatten(0, 1) for name in names_read(index, blocks[0])}
    given[MAIN] = given[MAIN].clone()
    made = run_block(index, put_side_by_side(blocks, gathered), given)
    return {name: tensor.unflatten(0, (-1, len(blocks))) for name, tensor in made.items()}


def run_alone(column: Column, carry: Carry) -> Carry:
    """Pass one client's batch, (B, 1, ...) each, through blocks that cannot be stacked."""
    if not column:
        return dict(carry)
    values = {name: tensor.squeeze(1) for name, tensor in carry.items()}
    values[MAIN] = values[MAIN].clone()  # the first layer may work in place
    outputs = run_blocks(column, values)
    given = {name: id(tensor) for name, tensor in values.items()}
    return {
        name: carry[name] if given.get(name) == id(tensor) else tensor.unsqueeze(1)
        for name, tensor in outputs.items()
    }


def draws_random_numbers(block: nn.Module, index: int, inputs: Mapping[str, Tensor]) -> bool:
    """Return whether a block draws from torch's global stream, by a trial in training mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        buffers = [buffer.clone() for buffer in block.buffers()]
        block(*(inputs[name] for name in names_read(index, block)))
        for buffer, old in zip(block.buffers(), buffers, strict=True):
            buffer.copy_(old)
        return not torch.equal(torch.get_rng_state(), before)


def _begin(values: Tensor) -> Stack:
    count = values.shape[1]
    if values.ndim == 2:  # a number of each sample
        return Stack(values.flatten(), count, is_apart=True)
    return Stack(values.squeeze(1) if count == 1 else values.flatten(1, 2), count)


def _join(stems: Sequence[nn.Module], inputs: Tensor, labels: Tensor) -> Tensor:
    """Join labels for K clients, by one look-up where the class is known."""
    join_each = _JOINS.get(type(stems[0]))
    if join_each is not None:
        return join_each(stems, inputs, labels)
    each = zip(stems, inputs.unbind(1), labels.unbind(1), strict=True)
    return torch.stack([stem.join(x, y) for stem, x, y in each], 1)  # type: ignore[operator]


def _join_plane(stems: Sequence[nn.Module], samples: Tensor, labels: Tensor) -> Tensor:
    planes = look_up_each([stem.embedding for stem in stems], labels)  # type: ignore[misc]
    planes = planes.view(*labels.shape, 1, *samples.shape[3:]).to(samples.dtype)
    return torch.cat([samples, planes], dim=2)


def _join_noise(stems: Sequence[nn.Module], noise: Tensor, labels: Tensor) -> Tensor:
    return torch.cat([look_up_each([stem.embedding for stem in stems], labels), noise], 2)  # type: ignore[misc]


_JOINS: dict[type[nn.Module], Callable[[Sequence[nn.Module], Tensor, Tensor], Tensor]] = {
    DiscriminatorStem: _join_plane,
    GeneratorStem: _join_noise,
}


def _is_known(block: nn.Module) -> bool:
    if _is_labelled(block):
        return all(map(is_plain, block.layers))  # type: ignore[arg-type]
    return is_samplewise(block)


def _is_labelled(block: nn.Module) -> bool:
    return isinstance(block, LabelledBlock) and type(block).forward is LabelledBlock.forward


def _has_hooks(module: nn.Module) -> bool:
    ways = ("forward", "forward_pre", "backward", "backward_pre")
    return any(getattr(module, f"_{way}_hooks") for way in ways)
