"""The server's parameter gradients, summed beside the parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...parties import match_layout


class GradientSum:
    """Sums gradients beside the parameters, so that every microbatch can have a sum."""

    def __init__(self, sums: dict[nn.Parameter, Tensor] | None = None) -> None:
        self.sums = sums or {}

    def accumulate_grads(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor],
        inputs: Sequence[Tensor],
        parameters: Sequence[nn.Parameter],
        factor: float = 1.0,
    ) -> list[Tensor | None]:
        """Go back from outputs to inputs, adding the parameters' gradients on the way.

        Args:
            outputs: Ends of one graph.
            gradients: At the outputs.
            inputs: Leaves of the graph.
            parameters: Of which gradients are summed; those that the graph lacks, or that are
                frozen, get none.
            factor: On the parameters' gradients alone.

        Returns:
            The gradients at the inputs; None at those that the outputs do not follow.
        """
        parameters = [p for p in parameters if p.requires_grad]
        found = torch.autograd.grad(outputs, [*inputs, *parameters], gradients, allow_unused=True)
        at_inputs, at_parameters = found[: len(inputs)], found[len(inputs) :]
        pairs = zip(parameters, at_parameters, strict=True)
        self._add({p: g for p, g in pairs if g is not None}, factor)
        return list(at_inputs)

    @torch.no_grad()
    def add(self, other: "GradientSum") -> None:
        """Add another sum, whose tensors may be taken over."""
        known = [p for p in other.sums if p in self.sums]
        if known:
            torch._foreach_add_([self.sums[p] for p in known], [other.sums[p] for p in known])
        self.sums = {**other.sums, **self.sums}

    def scale(self, factor: float) -> None:
        """Multiply the sums."""
        for total in self.sums.values():
            total.mul_(factor)

    def write(self) -> None:
        """Leave the sums at the parameters."""
        for parameter, total in self.sums.items():
            parameter.grad = total
            match_layout(parameter)

    @torch.no_grad()
    def _add(self, gradients: dict[nn.Parameter, Tensor], factor: float) -> None:
        fresh = [p for p in gradients if p not in self.sums]
        known = [p for p in gradients if p in self.sums]
        if fresh:  # PyTorch refuses empty lists
            made = torch._foreach_mul([gradients[p] for p in fresh], factor)
            self.sums.update(zip(fresh, made, strict=True))
        if known:
            sums, added = [self.sums[p] for p in known], [gradients[p] for p in known]
            torch._foreach_add_(sums, added, alpha=factor)
