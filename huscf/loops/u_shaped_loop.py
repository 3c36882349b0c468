"""The custom Lightning loop: one advance is one U-shaped exchange over all clients."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ..modules import SplitGAN
from .group_threads import GroupThreads
from .lightning_compat import ManualOptimizationLoop
from .phases import list_phases
from .step_exchange import StepExchange


class UShapedLoop(ManualOptimizationLoop):
    """Sits in the innermost slot of Lightning's fit loop and runs the phases of a step.

    Epochs, validation, progress, checkpoints and resume stay Lightning's own. One exchange
    counts as one `global_step`, however many optimisers it steps.
    """

    def on_run_start(self) -> None:
        """Count no optimiser steps: `advance` counts one per exchange."""

    def advance(self, kwargs: OrderedDict) -> None:
        """Run one step through the strategy's hook, so that precision and logging apply."""
        kwargs["step"] = self.run_step
        self.optim_step_progress.increment_ready()
        super().advance(kwargs)
        self.optim_step_progress.increment_completed()

    def run_step(self, module: SplitGAN, batch: Mapping[int, Any]) -> dict[str, float]:
        """Run all phases for the clients in the batch.

        Args:
            module: The root module.
            batch: ClientBatch by client id; each goes to its client alone.

        Returns:
            Mean loss over clients by name.
        """
        step = self.trainer.global_step
        for client_id, (samples, labels) in batch.items():
            module.start_step(client_id, samples, labels, step)
        threads = GroupThreads()
        exchange = StepExchange(module, list(batch), threads)
        losses = {}
        with threads.shared_out(exchange.num_threads):
            for phase in list_phases(module.weigh_mismatched(step)):
                losses[f"{phase.trains}_loss"] = exchange.run_phase(phase)
            module.update_average(step)
            module.server.statistics.fold()
        for client_id in batch:
            module.client(client_id).forget()
        return losses
