"""The server's parameter gradients, summed over groups of clients in a fixed order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...parties import match_layout


class GradientSum:
    """Sums gradients beside the parameters, so that several threads can each have a sum."""

    def __init__(self) -> None:
        self._sums: dict[nn.Parameter, Tensor] = {}

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

    def add(self, other: "GradientSum") -> None:
        """Add another sum."""
        self._add(other._sums, 1.0)

    def scale(self, factor: float) -> None:
        """Multiply the sums."""
        for total in self._sums.values():
            total.mul_(factor)

    def write(self) -> None:
        """Leave the sums at the parameters."""
        for parameter, total in self._sums.items():
            parameter.grad = total
            match_layout(parameter)

    @torch.no_grad()
    def _add(self, gradients: dict[nn.Parameter, Tensor], factor: float) -> None:
        for parameter, gradient in gradients.items():
            if parameter in self._sums:
                self._sums[parameter].add_(gradient, alpha=factor)
            else:
                self._sums[parameter] = gradient * factor
