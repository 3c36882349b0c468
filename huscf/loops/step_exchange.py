"""One step over all clients: phase by phase, group by group."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..models import BatchStatistics
from ..modules import SplitGAN
from ..split import GradientSum, UPass
from .group_threads import GroupThreads
from .phases import Phase, Source


@dataclass
class Group:
    """Clients whose batches go through a network together.

    Args:
        lanes: Those still taking part; clients of one lane compute side by side.
        fakes: Their generator pass, from its first use until the generator has trained on it.
        pending: Batch statistics of finished passes that running statistics have yet to follow.
    """

    lanes: list[list[int]]
    fakes: UPass | None = None
    pending: list[BatchStatistics] = field(default_factory=list)

    @property
    def client_ids(self) -> list[int]:
        """Return the members."""
        return [client_id for lane in self.lanes for client_id in lane]

    def remove(self, client_id: int) -> None:
        """Go on without a client."""
        lanes = ([c for c in lane if c != client_id] for lane in self.lanes)
        self.lanes = [lane for lane in lanes if lane]
        self.fakes = None


@dataclass
class Sums:
    """What one thread adds up in a phase.

    Args:
        shares: Every participant's share in the server's gradient.
        losses: By client.
        gradients: Of the server's parameters.
    """

    shares: dict[int, float]
    losses: Counter[int] = field(default_factory=Counter)
    gradients: GradientSum = field(default_factory=GradientSum)

    def shares_of(self, group: Group) -> list[list[float]]:
        """Return the shares by lane and client."""
        return [[self.shares[client_id] for client_id in lane] for lane in group.lanes]


class StepExchange:
    """One step's passes: what must outlive a phase, and who is still taking part.

    Args:
        module: The root module.
        client_ids: The participants, whose batches have been handed out.
        threads: How groups are run at once; None runs one after the other.
    """

    def __init__(
        self, module: SplitGAN, client_ids: list[int], threads: GroupThreads | None = None
    ) -> None:
        self.module = module
        self.groups = [Group(lanes) for lanes in module.groups(client_ids)]
        self.threads = threads or GroupThreads()
        can_share = threads is not None and module.can_run_at_once(client_ids)
        self.num_threads = self.threads.count(len(self.groups), module.device) if can_share else 1

    @property
    def active(self) -> list[int]:
        """Return the clients still taking part, ascending."""
        return sorted(client_id for group in self.groups for client_id in group.client_ids)

    def run_phase(self, phase: Phase) -> float:
        """Run a phase for every participant, then update its network.

        Returns:
            Mean loss over the participants; NaN if none is left.
        """
        optimizer = self.module.optimizer(phase.trains)
        optimizer.zero_grad(set_to_none=True)
        work = partial(self._run_groups, phase, self.module.server_shares(self.active))
        first, *others = self.threads.run(work, self.groups, self.num_threads)
        first.gradients.write(*(sums.gradients for sums in others))
        for group in self.groups:
            for statistics in group.pending:
                statistics.follow()
            group.pending.clear()
        optimizer.step()
        for sums in others:
            first.losses.update(sums.losses)
        values = [first.losses[client_id] for client_id in self.active]
        return sum(values) / len(values) if values else float("nan")

    def _run_groups(self, phase: Phase, shares: dict[int, float], groups: Sequence[Group]) -> Sums:
        sums = Sums(shares)
        for group in groups:
            for source in phase.sources:
                self._run_source(phase, source, group, sums)
        return sums

    def _run_source(self, phase: Phase, source: Source, group: Group, sums: Sums) -> None:
        """Train on one source; begin again without a client that yields NaN or Inf."""
        while group.lanes:
            num_finished = len(group.pending)
            try:
                if phase.trains == "discriminator":
                    losses = self._train_discriminator(source, group, sums)
                else:
                    losses = self._train_generator(group, sums)
            except NonFiniteError as error:
                del group.pending[num_finished:]
                self._drop(error, group)
            else:
                sums.losses.update(losses)
                return

    def _train_discriminator(self, source: Source, group: Group, sums: Sums) -> dict[int, float]:
        is_real = source == "real"
        if is_real:
            samples = [self.module.held(lane, "samples") for lane in group.lanes]
        else:
            samples = self._fakes(group)
        judged = self.module.run_group(
            "discriminator", group.lanes, samples, observe=is_real, pending=group.pending
        )
        loss = partial(self.module.loss.discriminator, is_real=is_real)
        ends, losses = _apply_loss(loss, judged, "discriminator")
        judged.backward(ends, [None] * len(ends), sums.gradients, sums.shares_of(group))
        self._drop_failures(group, judged)
        return losses

    def _train_generator(self, group: Group, sums: Sums) -> dict[int, float]:
        samples = [own.requires_grad_() for own in self._fakes(group)]
        judged = self.module.run_group("discriminator", group.lanes, samples, pending=group.pending)
        ends, losses = _apply_loss(self.module.loss.generator, judged, "generator")
        gradients = judged.differentiate(ends, samples)
        made, group.fakes = group.fakes, None
        assert made is not None
        made.backward(made.outputs, gradients, sums.gradients, sums.shares_of(group))
        self._drop_failures(group, judged, made)
        return losses

    def _fakes(self, group: Group) -> list[Tensor]:
        """Return the step's fakes of every lane, detached; they are made at the first call."""
        if group.fakes is None:
            noise = [self.module.held(lane, "noise") for lane in group.lanes]
            group.fakes = self.module.run_group(
                "generator", group.lanes, noise, pending=group.pending
            )
        return [fakes.detach() for fakes in group.fakes.outputs]

    def _drop_failures(self, group: Group, *passes: UPass) -> None:
        errors = {error.client_id: error for each in passes for error in each.failures}
        for error in errors.values():
            self._drop(error, group)

    def _drop(self, error: NonFiniteError, group: Group) -> None:
        """Leave a client out of the rest of the step, or stop the run."""
        if self.module.on_nonfinite == "stop":
            raise error
        client_id = error.client_id
        group.remove(client_id)
        self.module.num_dropped[client_id] += 1
        self.module.client(client_id).zero_grad(set_to_none=True)


def _apply_loss(
    loss: Callable[[Tensor], Tensor], judged: UPass, name: str
) -> tuple[list[Tensor], dict[int, float]]:
    """Return the sum of the clients' losses of every lane, and each client's own."""
    ends = []
    losses: dict[int, float] = {}
    for lane in judged.lanes:
        each = torch.stack([loss(logits.float()) for logits in lane.output.unbind(1)])
        ends.append(each.sum())
        losses.update(zip(lane.client_ids, each.tolist(), strict=True))
    for client_id, value in losses.items():
        if not math.isfinite(value):
            raise NonFiniteError(client_id, f"{name} loss is NaN or Inf")
    return ends, losses
