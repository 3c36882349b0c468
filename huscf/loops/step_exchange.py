"""One step over all clients: phase by phase, group by group."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..errors import HuscfError, NonFiniteError
from ..models import BatchStatistics
from ..modules import SplitGAN
from ..split import Exchange, GradientSum, UPass
from .group_threads import GroupThreads
from .phases import Phase, Source

#: Samples whose generator passes are kept from one phase to the next, and after which the
#: clients that are done with a phase are stepped (docs/performance.md).
WAVE_SAMPLES = 512


@dataclass
class Group:
    """Clients whose batches go through a network together.

    Args:
        lanes: Those still taking part; clients of one lane compute side by side.
        is_kept: Whether the generator pass is kept from the discriminator's phase to the
            generator's; else it is made anew, so that memory does not grow with the groups.
        fakes: That pass, where it is kept.
        pending: Batch statistics of finished passes that running statistics have yet to follow.
    """

    lanes: list[list[int]]
    is_kept: bool = True
    fakes: UPass | None = None
    pending: list[BatchStatistics] = field(default_factory=list)

    @property
    def client_ids(self) -> list[int]:
        """Return the members."""
        return [client_id for lane in self.lanes for client_id in lane]

    def follow_own(self, start: int) -> None:
        """Let those running statistics follow that are the clients' own, from a place on."""
        fresh, self.pending[start:] = self.pending[start:], []
        for statistics in fresh:
            if statistics.is_shared:
                self.pending.append(statistics)
            else:
                statistics.follow()

    def follow(self) -> None:
        """Let the other running statistics follow what the group's passes have seen."""
        for statistics in self.pending:
            statistics.follow()
        self.pending.clear()

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

    def add(self, other: "Sums") -> None:
        """Take over what another thread has added up."""
        self.losses.update(other.losses)
        self.gradients.add(other.gradients)

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
        self.threads = threads or GroupThreads()
        is_pure = module.can_run_at_once(client_ids)
        self.groups = [Group(lanes) for lanes in module.groups(client_ids)]
        # Of what a wire draws or remembers, threads would change the order.
        can_share = threads is not None and is_pure and module.exchange.is_plain
        self.num_threads = self.threads.count(len(self.groups), module.device) if can_share else 1
        self.wave = self._size_wave()
        for group in self.groups[self.wave :]:
            group.is_kept = not (is_pure and module.exchange.is_plain)

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
        shares = self.module.server_shares(self.active)
        total = Sums(shares)
        for start in range(0, len(self.groups), self.wave):
            wave = self.groups[start : start + self.wave]
            if start:
                # A client's blocks train on its own data alone: step them, and free the gradients.
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            work = partial(self._run_groups, phase, shares)
            for sums in self.threads.run(work, wave, min(self.num_threads, len(wave))):
                total.add(sums)
            for group in wave:
                group.follow()
        active = self.active
        if 0 < len(active) < len(shares):
            total.gradients.scale(1 / sum(shares[client_id] for client_id in active))
        total.gradients.write()
        optimizer.step()
        values = [total.losses[client_id] for client_id in active]
        return sum(values) / len(values) if values else float("nan")

    def _size_wave(self) -> int:
        """Return how many groups make a wave; every thread gets equally many."""
        sizes = (
            sum(self.module.held(lane, "labels").numel() for lane in group.lanes)
            for group in self.groups
        )
        return self.num_threads * max(1, WAVE_SAMPLES // (max(sizes) * self.num_threads))

    def _run_groups(self, phase: Phase, shares: dict[int, float], groups: Sequence[Group]) -> Sums:
        sums = Sums(shares)
        for group in groups:
            self._run_group(phase, group, sums)
        return sums

    def _run_group(self, phase: Phase, group: Group, sums: Sums) -> None:
        """Train on all sources; begin again without a client that yields NaN or Inf."""
        num_finished = len(group.pending)
        while group.lanes:
            # Apart where they may have to be thrown away; adding them costs a pass over memory.
            own = sums if self.module.on_nonfinite == "stop" else Sums(sums.shares)
            try:
                for source in phase.sources:
                    if phase.trains == "discriminator":
                        losses = self._train_discriminator(phase, source, group, own)
                    else:
                        losses = self._train_generator(group, own)
                    own.losses.update(losses)
            except NonFiniteError as error:
                del group.pending[num_finished:]
                self._drop(error, group)
            else:
                group.follow_own(num_finished)
                if own is not sums:
                    sums.add(own)
                return

    def _train_discriminator(
        self, phase: Phase, source: Source, group: Group, sums: Sums
    ) -> dict[int, float]:
        if source == "fake":
            samples = self._fakes(group)
        else:
            samples = [self.module.held(lane, "samples") for lane in group.lanes]
        judged = self.module.run_group(
            "discriminator",
            group.lanes,
            samples,
            labels="wrong_labels" if source == "mismatched" else "labels",
            observe=source == "real",
            pending=group.pending,
        )
        judge = partial(self._judge, phase, source)
        ends, losses = self._apply_loss(judge, judged, "discriminator")
        judged.backward(ends, [None] * len(ends), sums.gradients, sums.shares_of(group))
        return losses

    def _train_generator(self, group: Group, sums: Sums) -> dict[int, float]:
        made = group.fakes or self._generate(group, repeat=not group.is_kept)
        samples = [own.detach().requires_grad_() for own in made.outputs]
        judged = self.module.run_group("discriminator", group.lanes, samples, pending=group.pending)
        ends, losses = self._apply_loss(self._judge_generator, judged, "generator")
        gradients = judged.differentiate(ends, samples)
        group.fakes = None
        made.backward(made.outputs, gradients, sums.gradients, sums.shares_of(group))
        return losses

    def _judge(self, phase: Phase, source: Source, client_id: int, logits: Tensor) -> Tensor:
        """Return a client's discriminator loss on its logits, (B,)."""
        loss = self.module.loss.discriminator
        if source != "mismatched":
            return loss(logits, source == "real")
        client = self.module.client(client_id)
        assert client.labels is not None and client.wrong_labels is not None
        is_wrong = client.labels != client.wrong_labels
        if not is_wrong.any():
            return 0.0 * logits.sum()
        share = is_wrong.float().mean()
        return phase.mismatched_weight * share * loss(logits[is_wrong], False)

    def _judge_generator(self, client_id: int, logits: Tensor) -> Tensor:
        """Return a client's generator loss on the discriminator's logits, (B,)."""
        return self.module.loss.generator(logits)

    def _apply_loss(
        self, loss: Callable[[int, Tensor], Tensor], judged: UPass, name: str
    ) -> tuple[list[Tensor], dict[int, float]]:
        """Return the sum of the clients' losses of every lane, and each client's own."""
        ends = []
        losses: dict[int, float] = {}
        for lane in judged.lanes:
            logits = lane.output.float().flatten(1).unbind(1)  # (B, K), or (B, K, 1)
            values = [loss(*own) for own in zip(lane.client_ids, logits, strict=True)]
            for given in values:
                if not isinstance(given, Tensor) or given.ndim:
                    got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
                    raise HuscfError(
                        f"{type(self.module.loss).__name__}.{name}: needs to return a scalar "
                        f"tensor, the mean over the batch, got {got}"
                    )
            each = torch.stack(values)
            ends.append(each.sum())
            losses.update(zip(lane.client_ids, each.tolist(), strict=True))
        for client_id, value in losses.items():
            if not math.isfinite(value):
                raise NonFiniteError(client_id, f"{name} loss is NaN or Inf")
        return ends, losses

    def _fakes(self, group: Group) -> list[Tensor]:
        """Return the step's fakes of every lane, detached, for the discriminator."""
        if not group.is_kept:
            with torch.no_grad():
                return self._generate(group).outputs
        group.fakes = group.fakes or self._generate(group)
        return [fakes.detach() for fakes in group.fakes.outputs]

    def _generate(self, group: Group, repeat: bool = False) -> UPass:
        """Run the generators; a repeated pass is each party's own and crosses no wire again."""
        noise = [self.module.held(lane, "noise") for lane in group.lanes]
        # Running statistics follow the pass that the generator trains on.
        pending = group.pending if group.is_kept or repeat else []
        exchange = Exchange() if repeat else self.module.exchange
        made = self.module.run_group(
            "generator", group.lanes, noise, pending=pending, exchange=exchange
        )
        made.exchange = self.module.exchange
        return made

    def _drop(self, error: NonFiniteError, group: Group) -> None:
        """Leave a client out of the rest of the step, or stop the run."""
        if self.module.on_nonfinite == "stop":
            raise error
        for client_id in group.client_ids:
            self.module.client(client_id).zero_grad(set_to_none=True)
        group.remove(error.client_id)
        self.module.num_dropped[error.client_id] += 1
