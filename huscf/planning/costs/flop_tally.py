"""Counts the work of whatever torch runs, by the formulas of PyTorch's own FLOP counter."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopTally(TorchDispatchMode):
    """Context manager that sums FLOPs of matrix products and convolutions, a multiply-add as 2.

    Deviation: `FlopCounterMode` counts the same but imports torch's compiler when entered,
    two seconds that `huscf plan` should not cost; a test holds the two equal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Without this answer the base class imports the compiler at the first operation.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and add its work."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result
