"""The custom Lightning loop: one advance is one U-shaped step over all clients."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ..engines import StepResult
from .lightning_compat import ManualOptimizationLoop
from .module import SplitModule


class UShapedLoop(ManualOptimizationLoop):
    """Sits in the innermost slot of Lightning's fit loop and runs the phases of a step.

    Epochs, validation, progress, checkpoints and resume stay Lightning's own. One step over all
    clients counts as one `global_step`, however many optimisers step.
    """

    def on_run_start(self) -> None:
        """Count no optimiser steps: `advance` counts one per step over all clients."""

    def advance(self, kwargs: OrderedDict) -> None:
        """Run one step through the strategy's hook, so that precision and logging apply."""
        kwargs["step"] = self.run_step
        self.optim_step_progress.increment_ready()
        super().advance(kwargs)
        self.optim_step_progress.increment_completed()

    def run_step(self, module: SplitModule, batch: Mapping[int, Any]) -> StepResult:
        """Run all phases for the clients in the batch.

        Args:
            module: The root module.
            batch: ClientBatch by client id; each goes to its client alone.
        """
        result = module.engine.run_step(batch, self.trainer.global_step)
        if module.engine.is_spent():
            self.trainer.should_stop = True
        return result
