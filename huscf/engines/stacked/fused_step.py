"""One fused optimiser step over the parameters of many parties, each with its own state."""

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer


class FusedStep:
    """Steps the optimisers of several parties at once.

    It works where the optimisers are of one class with the same settings and treat every
    parameter alone, as Adam does; the state stays with the party's own optimiser. Others are
    stepped one after the other.

    Args:
        optimizers: Of the parties, for one network.
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self.parts = list(optimizers)
        self.whole: Optimizer | None = None
        first = self.parts[0] if self.parts else None
        if first is not None and all(_is_alike(first, other) for other in self.parts):
            every = [p for part in self.parts for p in part.param_groups[0]["params"]]
            self.whole = object.__new__(type(first))
            self.whole.__dict__.update(first.__dict__)
            self.whole.param_groups = [{**_settings(first), "params": every}]
            # The parties' own states, not copies of them.
            self.whole.state = {  # type: ignore[assignment]
                p: part.state[p] for part in self.parts for p in part.param_groups[0]["params"]
            }

    def step(self) -> None:
        """Step all parameters that have gradients."""
        if self.whole is not None:
            self.whole.param_groups[0].update(_settings(self.parts[0]))
        for optimizer in self._steppers():
            optimizer.step()

    def free_gradients(self) -> None:
        """Free the gradients of all parameters."""
        for optimizer in self._steppers():
            optimizer.zero_grad(set_to_none=True)

    def _steppers(self) -> list[Optimizer]:
        return self.parts if self.whole is None else [self.whole]


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    return {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}


def _is_alike(one: Optimizer, other: Optimizer) -> bool:
    is_single = len(one.param_groups) == len(other.param_groups) == 1
    return type(one) is type(other) and is_single and _settings(one) == _settings(other)
