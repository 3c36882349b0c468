"""A step as data: which networks each phase trains, on which passes, with which losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from ..models import MAIN, Carry
from ..split import PassKind, TracedPass, TracedPhase

#: From a pass's outputs and the client's private tensors to a scalar, the mean over its batch.
Loss = Callable[[Carry, Mapping[str, Tensor]], Tensor]

#: From a pass's outputs and the client's private tensors to scalars that the client remembers.
Learn = Callable[[Carry, Mapping[str, Tensor]], Carry]

Backward = Literal["none", "inputs", "parameters", "both"]
Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Change:
    """What a client does to its samples before they enter a pass; gradients go through it.

    Args:
        reads: Names of private tensors, (B, ...) each, that decide about it.
        apply: From the pass's main input, (B, ...), and these to what enters in its place. It
            treats every sample alone and draws nothing, so that clients may run side by side.
    """

    reads: tuple[str, ...]
    apply: Callable[..., Tensor]


@dataclass(frozen=True)
class Pass:
    """One run of a network for every client.

    Args:
        name: By which later passes read its output. A pass that an earlier phase has run is not
            run again, so its network must not have been trained in between.
        network: Through which network.
        inputs: What enters, by the name under which blocks read it: the name of a private
            tensor of the client, or of an earlier pass whose main output it is; "pass.name"
            is another output of a pass.
        loss: What the client computes from the outputs, or None.
        observe: Whether the server adds the activations to its statistics of clients.
        drawn: Whether the server draws what enters (`Method.draw`), so that it drives the pass:
            nothing goes up before it and no gradient comes down after it. The network then has no
            head at a client.
        change: What the client does to the main input before its head, or None.
        learn: What the client remembers of the outputs, or None; it fills the private tensors of
            the same names in its next step, if there are such, and is told where a round ends, if
            the method says so (`Method.told`).
        head_loss: What the client adds to its loss in phases that train the network, from what its
            head sends, by name; or None. It trains the head alone.
    """

    name: str
    network: str
    inputs: Mapping[str, str]
    loss: Loss | None = None
    observe: bool = False
    drawn: bool = False
    change: Change | None = None
    learn: Learn | None = None
    head_loss: Loss | None = None

    def read_inputs(self, private: Mapping[str, Tensor], outputs: Mapping[str, Carry]) -> Carry:
        """Return what enters, by name.

        Args:
            private: The client's private tensors.
            outputs: Of earlier passes, by name of the pass.
        """
        found: Carry = {}
        for name, source in self.inputs.items():
            giver, _, which = source.partition(".")
            is_output = giver in outputs
            found[name] = outputs[giver][which or MAIN] if is_output else private[source]
        return found

    def change_inputs(self, inputs: Carry, private: Mapping[str, Tensor]) -> Carry:
        """Return what enters the client's head, changed where the pass says so.

        Args:
            inputs: (B, ...) each, by name.
            private: The client's private tensors; several clients' one after the other if their
                inputs are.
        """
        if self.change is None:
            return inputs
        deciding = [private[name] for name in self.change.reads]
        return {**inputs, MAIN: self.change.apply(inputs[MAIN], *deciding)}


@dataclass(frozen=True)
class Phase:
    """One half of a step, run for every client before the networks that it trains are updated.

    Args:
        trains: These networks.
        passes: In the order in which they run; their losses are added up.
    """

    trains: tuple[str, ...]
    passes: tuple[Pass, ...]

    @property
    def name(self) -> str:
        """Return the names of what is trained."""
        return "+".join(self.trains)

    def has_head_loss(self, item: Pass) -> bool:
        """Return whether a client's head has a loss of its own in this phase's run of a pass."""
        return item.head_loss is not None and item.network in self.trains

    def sources(self, item: Pass) -> list[str]:
        """Return the names of the phase's passes whose outputs enter a pass."""
        known = {each.name for each in self.passes}
        givers = (source.partition(".")[0] for source in item.inputs.values())
        return [name for name in dict.fromkeys(givers) if name in known]

    def trained_sources(self, item: Pass) -> list[str]:
        """Return those of the sources to which gradients of a pass's inputs go back."""
        return [name for name in self.sources(item) if self._backward[name] != "none"]

    def backward_of(self, item: Pass) -> Backward:
        """Return which gradients a pass gives in this phase."""
        return self._backward[item.name]

    def steps(self) -> list[tuple[Direction, Pass]]:
        """Return forward and backward passes in the order in which they run.

        A client goes back through a pass as soon as no later pass of the phase needs its output,
        so that it keeps few passes at a time.
        """
        order: list[tuple[Direction, Pass]] = []
        readers = {
            item.name: {p.name for p in self.passes if item.name in self.sources(p)}
            for item in self.passes
        }
        done: set[str] = set()
        for item in self.passes:
            order.append(("forward", item))
            for each in reversed(self.passes[: self.passes.index(item) + 1]):
                if each.name not in done and readers[each.name] <= done:
                    done.add(each.name)
                    if self.backward_of(each) != "none":
                        order.append(("backward", each))
        return order

    def exchanges(self) -> list[tuple[Direction, tuple[Pass, ...]]]:
        """Return the steps in groups of one direction whose members need nothing of each other.

        So what they send can go together, and be waited for once. Forward passes are in the order
        of `steps`, and backward passes too: sums over passes come out the same.
        """
        groups: list[tuple[Direction, list[Pass]]] = []
        places: dict[tuple[Direction, str], int] = {}
        latest: dict[Direction, int] = {"forward": 0, "backward": 0}
        for direction, item in self.steps():
            after = [places[need] + 1 for need in self._needs(direction, item) if need in places]
            first = max([latest[direction], *after])
            fitting = (n for n in range(first, len(groups)) if groups[n][0] == direction)
            place = next(fitting, len(groups))
            if place == len(groups):
                groups.append((direction, []))
            groups[place][1].append(item)
            places[direction, item.name] = latest[direction] = place
        return [(direction, tuple(items)) for direction, items in groups]

    def _needs(self, direction: Direction, item: Pass) -> list[tuple[Direction, str]]:
        """Return what has to be over before a forward or backward pass can run."""
        if direction == "forward":
            return [("forward", name) for name in self.sources(item)]
        readers = [p.name for p in self.passes if item.name in self.trained_sources(p)]
        return [("forward", item.name), *(("backward", name) for name in readers)]

    @cached_property
    def _backward(self) -> dict[str, Backward]:
        wants: dict[str, bool] = {}  # whether a gradient at a pass's output is of use
        kinds: dict[str, Backward] = {}
        for item in self.passes:
            to_inputs = any(wants[name] for name in self.sources(item))
            is_trained = item.network in self.trains
            wants[item.name] = to_inputs or is_trained
            names = {(0, 0): "none", (1, 0): "inputs", (0, 1): "parameters", (1, 1): "both"}
            kinds[item.name] = names[to_inputs, is_trained]  # type: ignore[assignment]
        return kinds


def trace_phases(phases: Sequence[Phase]) -> tuple[TracedPhase, ...]:
    """Return the phases of a step as a planner counts them: a pass runs forward in its first."""
    done: set[str] = set()
    traced = []
    for phase in phases:
        runs = []
        for direction, item in phase.steps():
            kind: PassKind = "forward"
            if direction == "backward":
                kind = "input_backward" if phase.backward_of(item) == "inputs" else "backward"
            elif item.name in done:
                continue
            done.add(item.name)
            runs.append(TracedPass(item.network, kind, item.observe, item.drawn))
        traced.append(TracedPhase(phase.trains, tuple(runs)))
    return tuple(traced)
