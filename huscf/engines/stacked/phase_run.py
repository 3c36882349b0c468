"""One phase of one microbatch: passes forward, losses, and back."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import NonFiniteError
from ...methods import Pass, Phase
from ...models import MAIN, Carry, check_scalar
from ...parties import Segment
from ...wire import Kind
from ..crossing import name_crossing
from .gradient_sum import GradientSum
from .microbatch import Microbatch
from .norm_stats import NormStats
from .run_stacked import run_alone, run_stacked
from .split_forward import SplitForward
from .stacked_wire import pass_stacked

if TYPE_CHECKING:
    from .engine import StackedEngine


@dataclass
class Sums:
    """What a microbatch, or several, come to in a phase.

    Args:
        shares: Every participant's share in the server's gradient.
        losses: By client.
        gradients: Of the server's parameters.
    """

    shares: dict[int, float]
    losses: Counter[int] = field(default_factory=Counter)
    gradients: GradientSum = field(default_factory=GradientSum)

    def join(self, other: "Sums") -> "Sums":
        """Add those of other microbatches, which may be taken over."""
        self.losses.update(other.losses)
        self.gradients.add(other.gradients)
        return self


class PhaseRun:
    """One phase of one microbatch: all passes forward, and back."""

    def __init__(
        self,
        engine: "StackedEngine",
        shared_passes: set[str],
        phase: Phase,
        microbatch: Microbatch,
        sums: Sums,
    ) -> None:
        self.engine, self.shared_passes = engine, shared_passes
        self.phase, self.microbatch, self.sums = phase, microbatch, sums
        self.shares = [sums.shares[c] for c in microbatch.client_ids]
        self.passes: dict[str, SplitForward] = {}
        self.losses: dict[str, Tensor] = {}
        self.head_losses: dict[str, Tensor] = {}
        self.gradients: dict[str, dict[str, Tensor]] = {}

    def run(self) -> None:
        """Run forward and backward passes in the phase's order."""
        for direction, item in self.phase.steps():
            if direction == "forward":
                self.passes[item.name] = self._find_or_run(item)
                if item.learn is not None:
                    self._learn(item)
                if item.loss is not None:
                    self._measure_loss(item)
            else:
                self._go_back(item)

    def _find_or_run(self, item: Pass) -> SplitForward:
        """Return a pass of an earlier phase where it was kept, else run it."""
        microbatch = self.microbatch
        is_shared = item.name in self.shared_passes
        if kept := microbatch.passes.pop(item.name, None):
            return kept
        goes_back = self.phase.backward_of(item) != "none"
        was_run = is_shared and not microbatch.keeps_passes and goes_back
        # Running statistics follow a pass once: the one that is trained on.
        is_counted = item.name in microbatch.deferred or (
            is_shared and not microbatch.keeps_passes and not goes_back
        )
        deferred = [] if is_counted else microbatch.deferred.setdefault(item.name, [])
        with torch.set_grad_enabled(goes_back or (is_shared and microbatch.keeps_passes)):
            made = self._run_forward(item, deferred, repeats=was_run)
        if is_shared and microbatch.keeps_passes and not goes_back:
            microbatch.passes[item.name] = made
        return made

    def _run_forward(self, item: Pass, deferred: list[NormStats], repeats: bool) -> SplitForward:
        """Run a pass; one that is repeated is each party's own and crosses no wire again."""
        engine, client_ids = self.engine, self.microbatch.client_ids
        first = engine.client(client_ids[0])
        crossing = first.crossings[item.network]
        segment = engine.server.segment(item.network, client_ids[0])
        wanted = self.phase.trained_sources(item)
        outputs = {name: each.outputs for name, each in self.passes.items()}
        inputs = {
            name: self._read(item, name, source, outputs, wanted)
            for name, source in item.inputs.items()
        }

        def run_clients(end: str, carry: Carry) -> Carry:
            carry = self._change(item, carry) if end == "head" else carry
            segments = [engine.client(c).trained.segment(item.network, end) for c in client_ids]
            return self._run_segments(item.network, segments, segments[0].indices, carry, deferred)

        # A function of its own: one of this object would keep it, and all its passes, alive.
        send = partial(pass_across, engine, item, repeats, client_ids)
        return SplitForward.run(
            client_ids,
            crossing,
            send,
            inputs,
            (
                partial(run_clients, "head"),
                partial(self._run_server, item, segment, deferred),
                partial(run_clients, "tail"),
            ),
            list(segment.parameters()),
        )

    def _read(
        self, item: Pass, name: str, source: str, outputs: Mapping[str, Carry], wanted: list[str]
    ) -> Tensor:
        """Return what enters a pass under one name, (B, K, ...), as a leaf of its own."""
        giver, _, which = source.partition(".")
        if giver not in outputs:
            engine, client_ids = self.engine, self.microbatch.client_ids
            if item.drawn:
                each = [engine.server.drawn[client_id][source] for client_id in client_ids]
            else:
                each = [engine.client(client_id).private[source] for client_id in client_ids]
            return each[0].unsqueeze(1) if len(each) == 1 else torch.stack(each, 1)
        given = outputs[giver][which or MAIN].detach()
        is_wanted = giver in wanted and torch.is_grad_enabled()
        return given.requires_grad_() if is_wanted else given

    def _change(self, item: Pass, carry: Carry) -> Carry:
        """Let the clients change what enters, (B, K, ...), all at once."""
        if item.change is None:
            return carry
        each = [self.engine.client(c).private for c in self.microbatch.client_ids]
        private = {
            name: torch.stack([own[name] for own in each], 1).flatten(0, 1)
            for name in item.change.reads
        }
        changed = item.change_inputs({MAIN: carry[MAIN].flatten(0, 1)}, private)
        return {**carry, MAIN: changed[MAIN].unflatten(0, (-1, len(each)))}

    def _run_server(
        self, item: Pass, segment: Segment, deferred: list[NormStats], carry: Carry
    ) -> Carry:
        """Run the blocks that the clients left to the server, and observe what passes."""
        server, client_ids = self.engine.server, self.microbatch.client_ids
        indices = server.server_range(item.network, client_ids[0])
        columns = [segment] * len(client_ids)
        run = partial(self._run_segments, item.network, columns)
        boundary = server.statistics.boundary if item.observe else None
        if boundary is None:
            return run(indices, carry, deferred)
        middle = run(range(indices.start, boundary), carry, deferred)
        server.statistics.update(client_ids, middle[MAIN])
        return run(range(boundary, indices.stop), middle, deferred)

    def _run_segments(
        self,
        network: str,
        segments: Sequence[Segment],
        indices: Sequence[int],
        carry: Carry,
        deferred: list[NormStats],
    ) -> Carry:
        columns = [_select(segment, indices) for segment in segments]
        if self.engine.can_stack_segment(segments[0], network):
            return run_stacked(columns, carry, deferred)
        return run_alone(columns[0], carry)

    def _learn(self, item: Pass) -> None:
        """Let every client note what a pass teaches."""
        outputs = self.passes[item.name].outputs
        for position, client_id in enumerate(self.microbatch.client_ids):
            own = {name: tensor[:, position] for name, tensor in outputs.items()}
            self.engine.client(client_id).learn(item, own)

    def _measure_loss(self, item: Pass) -> None:
        """Keep the sum of the clients' losses, and add each to the sums."""
        assert item.loss is not None
        outputs, values = self.passes[item.name].outputs, []
        for position, client_id in enumerate(self.microbatch.client_ids):
            own = {name: tensor[:, position] for name, tensor in outputs.items()}
            client = self.engine.client(client_id)
            value = item.loss(own, client.private)
            values.append(check_scalar(f"loss of pass {item.name}", value))
        each = torch.stack(values)
        self.losses[item.name] = each.sum()
        if (at_heads := self._measure_head_losses(item)) is not None:
            self.head_losses[item.name] = at_heads.sum()
            each = each + at_heads
        for client_id, value in zip(self.microbatch.client_ids, each.tolist(), strict=True):
            if not math.isfinite(value):
                raise NonFiniteError(client_id, f"{self.phase.name} loss is NaN or Inf")
            self.sums.losses[client_id] += value

    def _measure_head_losses(self, item: Pass) -> Tensor | None:
        """Return what every client's head adds to its loss, (K,), where it sends anything."""
        made = self.passes[item.name]
        if item.head_loss is None or not made.at_server or not self.phase.has_head_loss(item):
            return None
        values = []
        for position, client_id in enumerate(self.microbatch.client_ids):
            sent = {name: made.head[name][:, position] for name in made.crossing.up}
            value = item.head_loss(sent, self.engine.client(client_id).private)
            values.append(check_scalar(f"head's loss of pass {item.name}", value))
        each = torch.stack(values)
        return each if each.requires_grad else None

    def _go_back(self, item: Pass) -> None:
        """Go back through a pass, and hand gradients on to those that its inputs came from."""
        made, kind = self.passes[item.name], self.phase.backward_of(item)
        at_outputs = self.gradients.pop(item.name, {})
        ends: list[Tensor] = [made.outputs[name] for name in at_outputs]
        gradients: list[Tensor | None] = list(at_outputs.values())
        if item.name in self.losses:
            ends.append(self.losses.pop(item.name))
            gradients.append(None)
        if not ends:
            return
        collected = None if kind == "inputs" else self.sums.gradients
        wanted = [n for n in item.inputs if made.inputs[n].requires_grad]
        at_head = self.head_losses.pop(item.name, None)
        found = made.go_back(ends, gradients, collected, self.shares, wanted, at_head)
        del self.passes[item.name]
        for name, gradient in found.items():
            giver, _, which = item.inputs[name].partition(".")
            at_giver = self.gradients.setdefault(giver, {})
            key = which or MAIN
            at_giver[key] = at_giver[key] + gradient if key in at_giver else gradient


def _select(segment: Segment, indices: Sequence[int]) -> Mapping[int, nn.Module]:
    """Return some of a segment's blocks by index."""
    if len(indices) == len(segment.indices):
        return segment.by_index()
    return {index: segment.block(index) for index in indices}


def pass_across(
    engine: "StackedEngine",
    item: Pass,
    repeats: bool,
    client_ids: Sequence[int],
    kind: Kind,
    is_up: bool,
    tensors: Carry,
) -> Carry:
    """Pass what crosses a cut; the server looks at what it is sent before it uses it.

    Args:
        engine: With the wire and the server.
        item: The pass.
        repeats: Whether its activations have crossed before.
        client_ids: The clients at one end.
        kind: "activations" or "gradients".
        is_up: Whether the clients send.
        tensors: (B, K, ...) each, by name.
    """
    if item.drawn and (kind == "activations") == is_up:
        return tensors  # at the server already; their gradients go nowhere
    topic, named = name_crossing(engine, item.network, kind, is_up, client_ids[0])
    arrived = tensors
    if not (repeats and kind == "activations"):
        arrived = pass_stacked(engine.wire, client_ids, named, topic, is_up, tensors)
    if is_up:
        for tensor in arrived.values():
            engine.server.guard.check(named, topic, client_ids, tensor, item.name)
    return arrived
