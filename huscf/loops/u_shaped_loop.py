"""The custom Lightning loop: one advance is one U-shaped exchange over all clients."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import NonFiniteError
from ..modules import SplitGAN
from ..split import UPass, is_finite
from .lightning_compat import ManualOptimizationLoop
from .phases import STEP, Phase, Source


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
        exchange = StepExchange(module, list(batch))
        losses = {}
        for phase in STEP:
            losses[f"{phase.trains}_loss"] = exchange.run_phase(phase)
        for client_id in batch:
            module.client(client_id).forget()
        module.update_average(step)
        return losses


class StepExchange:
    """One step's passes: what must outlive a phase, and who is still taking part.

    Args:
        module: The root module.
        client_ids: The participants.
    """

    def __init__(self, module: SplitGAN, client_ids: list[int]) -> None:
        self.module = module
        self.active = client_ids
        self.fakes: dict[int, UPass] = {}

    def run_phase(self, phase: Phase) -> float:
        """Run a phase for every participant, then update its network.

        Returns:
            Mean loss over the participants; NaN if none is left.
        """
        module = self.module
        optimizer = module.optimizer(phase.trains)
        optimizer.zero_grad(set_to_none=True)
        shares = module.server_shares(self.active)
        losses = {}
        for client_id in list(self.active):
            try:
                losses[client_id] = self._run_client(phase, client_id, shares[client_id])
            except NonFiniteError:
                self._drop(client_id)
        optimizer.step()
        values = [losses[c] for c in self.active]
        return sum(values) / len(values) if values else float("nan")

    def _run_client(self, phase: Phase, client_id: int, share: float) -> float:
        if client_id not in self.fakes:
            noise = self.module.client(client_id).noise
            assert noise is not None
            self.fakes[client_id] = self.module.run_u("generator", client_id, noise)
        if phase.trains == "discriminator":
            return self._train_discriminator(client_id, phase.sources, share)
        return self._train_generator(client_id, share)

    def _train_discriminator(
        self, client_id: int, sources: tuple[Source, ...], share: float
    ) -> float:
        total = 0.0
        for source in sources:
            is_real = source == "real"
            client = self.module.client(client_id)
            samples = client.samples if is_real else self.fakes[client_id].output.detach()
            assert samples is not None
            judged = self.module.run_u("discriminator", client_id, samples, observe=is_real)
            judged.output = self.module.loss.discriminator(judged.output.float(), is_real)
            total += _value(judged.output, client_id, "discriminator")
            judged.backward(None, server_scale=share)
        return total

    def _train_generator(self, client_id: int, share: float) -> float:
        made = self.fakes.pop(client_id)
        samples = made.output.detach().requires_grad_()
        judged = self.module.run_u("discriminator", client_id, samples)
        judged.output = self.module.loss.generator(judged.output.float())
        value = _value(judged.output, client_id, "generator")
        gradient = judged.backward(None, inputs=samples, frozen=True)
        made.backward(gradient, server_scale=share)
        return value

    def _drop(self, client_id: int) -> None:
        """Leave a client out of the rest of the step, or stop the run."""
        if self.module.on_nonfinite == "stop":
            raise
        self.active.remove(client_id)
        self.fakes.pop(client_id, None)
        self.module.num_dropped[client_id] += 1
        self.module.client(client_id).zero_grad(set_to_none=True)


def _value(loss: Tensor, client_id: int, name: str) -> float:
    if not is_finite(loss.detach()):
        raise NonFiniteError(f"client {client_id}: {name} loss is NaN or Inf")
    return loss.item()
