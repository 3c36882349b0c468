"""The custom Lightning loop: one advance is one U-shaped exchange over all clients."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import NonFiniteError
from ..modules import SplitGAN
from ..split import UPass
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


@dataclass
class Group:
    """Clients whose batches go through the server together.

    Args:
        client_ids: Those still taking part.
        fakes: Their generator pass, from its first use until the generator has trained on it.
    """

    client_ids: list[int]
    fakes: UPass | None = None


class StepExchange:
    """One step's passes: what must outlive a phase, and who is still taking part.

    Args:
        module: The root module.
        client_ids: The participants, whose batches have been handed out.
    """

    def __init__(self, module: SplitGAN, client_ids: list[int]) -> None:
        self.module = module
        self.groups = [Group(members) for members in module.groups(client_ids)]

    @property
    def active(self) -> list[int]:
        """Return the clients still taking part."""
        return [client_id for group in self.groups for client_id in group.client_ids]

    def run_phase(self, phase: Phase) -> float:
        """Run a phase for every participant, then update its network.

        Returns:
            Mean loss over the participants; NaN if none is left.
        """
        optimizer = self.module.optimizer(phase.trains)
        optimizer.zero_grad(set_to_none=True)
        shares = self.module.server_shares(self.active)
        losses = dict.fromkeys(shares, 0.0)
        for group in self.groups:
            for source in phase.sources:
                for client_id, value in self._run_source(phase, source, group, shares).items():
                    losses[client_id] += value
        optimizer.step()
        values = [losses[client_id] for client_id in self.active]
        return sum(values) / len(values) if values else float("nan")

    def _run_source(
        self, phase: Phase, source: Source, group: Group, shares: Mapping[int, float]
    ) -> dict[int, float]:
        """Train on one source; begin again without a client that yields NaN or Inf."""
        while group.client_ids:
            try:
                if phase.trains == "discriminator":
                    return self._train_discriminator(source == "real", group, shares)
                return self._train_generator(group, shares)
            except NonFiniteError as error:
                self._drop(error, group)
        return {}

    def _train_discriminator(
        self, is_real: bool, group: Group, shares: Mapping[int, float]
    ) -> dict[int, float]:
        samples = self._reals(group) if is_real else self._fakes(group)
        judged = self.module.run_group("discriminator", samples, observe=is_real)
        loss = partial(self.module.loss.discriminator, is_real=is_real)
        values = _apply_loss(loss, judged, "discriminator")
        judged.backward(dict.fromkeys(samples), shares=shares)
        self._drop_failures(group, judged)
        return values

    def _train_generator(self, group: Group, shares: Mapping[int, float]) -> dict[int, float]:
        samples = {c: own.requires_grad_() for c, own in self._fakes(group).items()}
        judged = self.module.run_group("discriminator", samples)
        values = _apply_loss(self.module.loss.generator, judged, "generator")
        gradients = judged.backward(dict.fromkeys(samples), inputs=samples, frozen=True)
        made, group.fakes = group.fakes, None
        assert made is not None
        made.backward(gradients, shares=shares)
        self._drop_failures(group, judged, made)
        return values

    def _reals(self, group: Group) -> dict[int, Tensor]:
        reals = {}
        for client_id in group.client_ids:
            samples = self.module.client(client_id).samples
            assert samples is not None
            reals[client_id] = samples
        return reals

    def _fakes(self, group: Group) -> dict[int, Tensor]:
        """Return the step's fakes, detached; they are made at the first call."""
        if group.fakes is None:
            noise = {}
            for client_id in group.client_ids:
                own = self.module.client(client_id).noise
                assert own is not None
                noise[client_id] = own
            group.fakes = self.module.run_group("generator", noise)
        return {client_id: fakes.detach() for client_id, fakes in group.fakes.outputs.items()}

    def _drop_failures(self, group: Group, *passes: UPass) -> None:
        errors = {error.client_id: error for each in passes for error in each.failures}
        for error in errors.values():
            self._drop(error, group)

    def _drop(self, error: NonFiniteError, group: Group) -> None:
        """Leave a client out of the rest of the step, or stop the run."""
        if self.module.on_nonfinite == "stop":
            raise error
        client_id = error.client_id
        group.client_ids.remove(client_id)
        group.fakes = None
        self.module.num_dropped[client_id] += 1
        self.module.client(client_id).zero_grad(set_to_none=True)


def _apply_loss(loss: Callable[[Tensor], Tensor], judged: UPass, name: str) -> dict[int, float]:
    """Put every client's loss in the place of its logits, and return the values."""
    values = {}
    for client_id, logits in judged.outputs.items():
        judged.outputs[client_id] = loss(logits.float())
        values[client_id] = judged.outputs[client_id].item()
        if not math.isfinite(values[client_id]):
            raise NonFiniteError(client_id, f"{name} loss is NaN or Inf")
    return values
