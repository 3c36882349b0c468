"""A client: its private tensors of a step, its heads and tails, and nothing of the server."""

import math
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import HuscfError, NonFiniteError
from ..methods import Pass, Phase
from ..models import LABELS, Carry, Network, check_scalar
from ..split import ClientCuts, ClientPlan, Crossing, find_crossing
from .guard import is_finite
from .holdings import ClientBlocks
from .party import PartKey, Party
from .segment import Segment


class Client(Party):
    """Holds the outer blocks of the networks, and privately what a step needs.

    Args:
        entry: The client's line in the cut plan.
        networks: The full networks to copy the client's blocks from.
        averaged: Networks of which the client keeps moving averages.

    Attributes:
        remembered: What passes have taught it, for its next step.
        shared: Samples (N, C, H, W) uint8 and labels (N,) that the server has sent it, from which
            half of every batch comes; None before there are any.
    """

    trained: ClientBlocks

    def __init__(
        self, entry: ClientPlan, networks: Mapping[str, Network], averaged: tuple[str, ...] = ()
    ) -> None:
        kept = {name: networks[name] for name in averaged}
        average = ClientBlocks(entry, kept) if averaged else None
        super().__init__(ClientBlocks(entry, networks), average)
        self.shares_memory = True
        self.client_id = entry.client_id
        self.cuts = entry.cuts
        self.crossings = find_crossings(entry.cuts, networks)
        self.num_blocks = {name: len(network) for name, network in networks.items()}
        self.remembered: dict[str, float] = {}
        self.shared: tuple[Tensor, Tensor] | None = None
        self.clear_batch()

    def blocks(self, network: str) -> dict[int, nn.Module]:
        """Return the trained blocks that the client holds, by index in the full network."""
        return self.trained.blocks(network)

    def set_cuts(self, cuts: ClientCuts, networks: Mapping[str, Network]) -> None:
        """Take over new cuts, after the blocks have moved."""
        self.cuts = cuts
        self.crossings = find_crossings(cuts, networks)

    def is_finite(self) -> bool:
        """Return whether no parameter or buffer is NaN or Inf."""
        return all(is_finite(tensor) for tensor in self.segment_tensors())

    def blend(
        self, samples: Tensor, labels: Tensor, stream: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return a batch of the same size, half of it from what the server has sent.

        Args:
            samples: (B, C, H, W) uint8.
            labels: (B,) int64.
            stream: CPU random stream.
        """
        assert self.shared is not None
        half = len(labels) // 2
        places = torch.randint(len(self.shared[1]), (half,), generator=stream)
        others = [tensor[places].to(samples.device) for tensor in self.shared]
        return torch.cat([samples[half:], others[0]]), torch.cat([labels[half:], others[1]])

    def load_batch(self, private: Carry, num_classes: int) -> None:
        """Take a step's private tensors.

        Args:
            private: By the names that the method's passes use; (B, ...) each.
            num_classes: Of the run.

        Raises:
            HuscfError: Naming the client and the label, where it is no class.
        """
        labels = private.get(LABELS)
        if labels is not None and len(labels):
            for label in torch.stack(labels.aminmax()).tolist():
                if not 0 <= label < num_classes:
                    raise HuscfError(
                        f"client {self.client_id}: label {label}, but the run's classes are 0 to "
                        f"{num_classes - 1}"
                    )
        known = {
            n: private[n].new_full(private[n].shape, v)
            for n, v in self.remembered.items()
            if n in private
        }
        self.private: Carry = {**private, **known}

    def clear_batch(self) -> None:
        """Drop the step's private tensors and what is kept of its passes."""
        self.private = {}
        self._learned: dict[str, float] = {}
        self.outputs: dict[str, Carry] = {}
        self._gradients: dict[str, dict[str, Tensor]] = {}
        self._losses: dict[str, Tensor] = {}
        self._head_losses: dict[str, Tensor] = {}
        self._home: dict[str, dict[str, Tensor]] = {}
        self.forget_runs()

    def view(self, item: Pass) -> Carry:
        """Return the private tensors as a pass is given them."""
        return self.private

    def view_outputs(self, item: Pass) -> dict[str, Carry]:
        """Return what earlier passes wrote, by their name, as a pass is given it."""
        return self.outputs

    # A pass, as the serial engine runs it

    def run_head(self, item: Pass) -> Carry:
        """Run the head on the client's own inputs; return what goes to the server."""
        inputs = item.read_inputs(self.view(item), self.view_outputs(item))
        head = self.trained.segment(item.network, "head")
        blocks = partial(self._change_and_run, item, head)
        outputs = self.run_part(self._key(item, "head"), blocks, inputs, head.indices)
        return {name: outputs[name].detach() for name in self.crossings[item.network].up}

    def run_tail(self, item: Pass, arrived: Carry) -> None:
        """Run the tail on what has come back from the server and what stayed at home."""
        home: Carry = {}
        if names := self.crossings[item.network].home:
            at_head = self._runs[self._key(item, "head")].outputs
            home = {name: at_head[name] for name in names}
        tail = self.trained.segment(item.network, "tail")
        self.outputs[item.name] = self.run_part(
            self._key(item, "tail"), tail, {**home, **arrived}, tail.indices
        )

    def learn(self, item: Pass, outputs: Carry) -> None:
        """Note what a pass teaches for the next step, until the step is closed."""
        if item.learn is not None:
            found = item.learn(outputs, self.view(item))
            self._learned |= {name: float(value) for name, value in found.items()}

    def remember(self) -> None:
        """Keep what the step has taught."""
        self.remembered |= self._learned

    def forget_learned(self) -> None:
        """Keep nothing of the step, as the client was dropped from it."""
        self._learned = {}

    def measure_loss(self, item: Pass, phase: Phase) -> float:
        """Return the loss of a pass that has one, and keep it for the way back.

        Raises:
            NonFiniteError: Where it is NaN or Inf.
        """
        assert item.loss is not None
        loss = item.loss(self.outputs[item.name], self.view(item))
        value = check_scalar(f"loss of pass {item.name}", loss).item()
        if (head_loss := self._measure_head_loss(item, phase)) is not None:
            self._head_losses[item.name] = head_loss
            value += head_loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(self.client_id, f"{phase.name} loss is NaN or Inf")
        self._losses[item.name] = loss
        return value

    def go_back_tail(self, item: Pass, phase: Phase) -> dict[str, Tensor]:
        """Go back from the loss, and from passes that read the output, to what came in.

        Returns:
            Gradients for the server by name; those of what stayed at home are kept.
        """
        losses = [] if item.loss is None else [self._losses.pop(item.name)]
        parameters = self._trained_parameters(item, phase, "tail")
        key = self._key(item, "tail")
        at_inputs, found = self.go_back(key, self._gradients.pop(item.name, {}), losses, parameters)
        self.add_gradients(found)
        crossing = self.crossings[item.network]
        self._home[item.name] = {n: at_inputs[n] for n in crossing.home if n in at_inputs}
        return {name: at_inputs[name] for name in crossing.down if name in at_inputs}

    def go_back_head(self, item: Pass, phase: Phase, arrived: Mapping[str, Tensor]) -> None:
        """Go back to the inputs; hand their gradients to the passes that they came from."""
        gradients = self._home.pop(item.name)
        for name, gradient in arrived.items():
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
        losses = [self._head_losses.pop(item.name)] if item.name in self._head_losses else []
        parameters = self._trained_parameters(item, phase, "head")
        key = self._key(item, "head")
        at_inputs, found = self.go_back(key, gradients, losses, parameters)
        self.add_gradients(found)
        for name, source in item.inputs.items():
            giver, _, which = source.partition(".")
            if name in at_inputs and giver in phase.trained_sources(item):
                at_giver = self._gradients.setdefault(giver, {})
                which = which or "x"
                known = at_giver.get(which)
                at_giver[which] = at_inputs[name] if known is None else known + at_inputs[name]

    def _measure_head_loss(self, item: Pass, phase: Phase) -> Tensor | None:
        """Return what the head adds to the loss of a pass, where it sends anything."""
        names = self.crossings[item.network].up
        if item.head_loss is None or not names or not phase.has_head_loss(item):
            return None
        at_head = self._runs[self._key(item, "head")].outputs
        loss = item.head_loss({name: at_head[name] for name in names}, self.view(item))
        loss = check_scalar(f"head's loss of pass {item.name}", loss)
        return loss if loss.requires_grad else None

    def _change_and_run(
        self, item: Pass, head: Segment, carry: Carry, indices: Iterable[int]
    ) -> Carry:
        return head(item.change_inputs(carry, self.view(item)), indices)

    def _trained_parameters(self, item: Pass, phase: Phase, end: str) -> list[nn.Parameter]:
        if item.network not in phase.trains:
            return []
        return list(self.trained.segment(item.network, end).parameters())

    def add_gradients(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """Add to what is at the client's parameters."""
        for parameter, gradient in gradients.items():
            known = parameter.grad
            parameter.grad = gradient if known is None else known + gradient

    def _key(self, item: Pass, part: str) -> PartKey:
        return PartKey(self.client_id, item.name, item.network, part)  # type: ignore[arg-type]


def find_crossings(cuts: ClientCuts, networks: Mapping[str, Network]) -> dict[str, Crossing]:
    """Return what crosses the cuts of every network."""
    return {
        name: find_crossing(list(network), cuts.head(name), cuts.tail(name))
        for name, network in networks.items()
    }
