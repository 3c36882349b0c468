"""A run as it is attacked: what its server is sent, and its untrained twin."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..datamodules import ClientData
from ..engines import SerialEngine
from ..methods import Method, Pass, Phase
from ..models import LABELS, MAIN, Carry, inputs_of
from ..parties import Segment
from ..randomness import make_rng
from ..training import SplitModule
from ..wire import SERVER, Message, PartyId, Wire
from .inversion import SoftHead, mixing_labels, reads_labels

#: The private tensor that holds a client's real samples.
SAMPLES = "samples"


@dataclass(frozen=True)
class Seen:
    """What the server is sent of batches, after whatever the run's wire does to it.

    Args:
        activations: Of the head, by name, (N, ...).
        gradients: At the tail's inputs, by name, (N, ...); none where the pass has no loss.
    """

    activations: Carry
    gradients: Carry


class Tap(Wire):
    """A wire that notes what arrives at the server.

    Args:
        wire: What really carries it.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire
        self.kinds, self.traffic = wire.kinds, wire.traffic
        self.heard: list[Message] = []

    def send(self, message: Message) -> None:
        """Take a message on its way."""
        self.wire.send(message)

    def receive(self, receiver: PartyId, sender: PartyId) -> Message:
        """Return the next message from a sender."""
        return self.wire.receive(receiver, sender)

    def pass_on(self, message: Message) -> Mapping[str, Tensor]:
        """Carry a message, and note it where it is for the server."""
        arrived = self.wire.pass_on(message)
        if message.receiver == SERVER:
            kept = {name: tensor.detach().clone() for name, tensor in arrived.items()}
            self.heard.append(Message(message.sender, SERVER, message.kind, message.topic, kept))
        return arrived


@dataclass
class AttackedRun:
    """Lets clients of a run make steps, and notes what the server is sent.

    Args:
        module: The run, with a serial engine; a copy of it makes the steps.
        item: The pass in which the server compares clients by what they send, if there is one.
    """

    way: ClassVar[str] = "trained"

    module: SplitModule
    item: Pass | None = None
    engine: SerialEngine = field(init=False)
    tap: Tap = field(init=False)

    def __post_init__(self) -> None:
        self.item = find_observed_pass(self.module.method)
        self.restart()

    def restart(self) -> None:
        """Begin anew with the run's own weights and wire."""
        copied = copy.deepcopy(self.module).train()
        copied.configure_optimizers()
        assert isinstance(copied.engine, SerialEngine)
        self.engine = copied.engine
        self.tap = Tap(self.engine.wire)
        self.engine.wire = self.tap

    def find_depths(self) -> dict[int, int]:
        """Return, for every depth of a head that sends something, the first client that has it."""
        found: dict[int, int] = {}
        if self.item is not None:
            for entry in self.module.plan.clients:
                crossing = self.module.client(entry.client_id).crossings[self.item.network]
                if crossing.up:
                    found.setdefault(entry.cuts.head(self.item.network), entry.client_id)
        return dict(sorted(found.items()))

    def observe(self, client_id: int, samples: Tensor, labels: Tensor, batch_size: int) -> Seen:
        """Return what the server is sent of samples, in batches as large as the client's own.

        Args:
            client_id: Whose head and tail run on them.
            samples: (N, C, H, W) uint8.
            labels: (N,) int64.
            batch_size: A last smaller batch is filled up from the front.
        """
        assert self.item is not None
        phase = Phase((self.item.network,), (self.item,))
        parts: list[Seen] = []
        for start in range(0, len(labels), batch_size):
            chosen = torch.arange(start, start + min(batch_size, len(labels))) % len(labels)
            self.engine.load_batches({client_id: (samples[chosen], labels[chosen])}, start)
            self.tap.heard.clear()
            self.engine.run_client(phase, client_id)
            self.engine.client(client_id).zero_grad(set_to_none=True)
            self.engine.commit_step([client_id])
            parts.append(self._collect(min(batch_size, len(labels) - start)))
        return Seen(
            _join([part.activations for part in parts]), _join([part.gradients for part in parts])
        )

    def why_not_inverted(self, client_id: int) -> str | None:
        """Return why samples cannot be looked for behind a client's head, or None."""
        item = self.item
        if item is None or item.inputs.get(MAIN) != SAMPLES:
            return "no pass takes a client's samples as they are through a head"
        blocks = list(self.head(client_id).by_index().values())
        if others := set(inputs_of(blocks)) - {MAIN, LABELS}:
            return f"the head reads {', '.join(sorted(others))} too"
        return None

    def soft_head(self, client_id: int) -> SoftHead:
        """Return a client's head as the server can run it, on mixtures of labels."""
        assert self.item is not None
        head = copy.deepcopy(self.head(client_id)).requires_grad_(False).train()
        names = self.module.client(client_id).crossings[self.item.network].up

        def run(samples: Tensor, mixture: Tensor) -> Carry:
            labels = torch.zeros(len(samples), dtype=torch.int64)
            with mixing_labels(head, mixture):
                made = head({MAIN: samples, LABELS: labels})
            return {name: made[name] for name in names}

        return run

    def reads_labels(self, client_id: int) -> bool:
        """Return whether a client's head has an embedding, through which labels can be found."""
        return reads_labels(self.head(client_id))

    def head(self, client_id: int) -> Segment:
        """Return a client's head in the pass that is attacked."""
        assert self.item is not None
        return self.module.client(client_id).trained.segment(self.item.network, "head")

    def _collect(self, count: int) -> Seen:
        found: dict[str, Carry] = {"activations": {}, "gradients": {}}
        for message in self.tap.heard:
            # Inputs that no block has changed cross in the activations' place.
            kind = "gradients" if message.kind == "gradients" else "activations"
            found[kind] = {name: tensor[:count] for name, tensor in message.tensors.items()}
        return Seen(**found)


def find_observed_pass(method: Method) -> Pass | None:
    """Return the pass of a method's step in which the server compares clients, if there is one."""
    passes = (item for phase in method.phases(0) for item in phase.passes)
    return next((item for item in passes if item.observe), None)


def take_batch(client: ClientData, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return some of a client's training samples, uint8, and their labels."""
    rng = make_rng(seed, "audit batch", client.client_id)
    index = torch.from_numpy(client.indices[rng.permutation(len(client))[:size]])
    return client.domain.train_samples[index], client.domain.train_labels[index]


def _join(parts: list[Carry]) -> Carry:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
