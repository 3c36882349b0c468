"""The serial engine under differential privacy: clipped gradients of records, and noise.

In every phase that reads records:

    1. Every party goes back as ever, and computes one squared norm a sample, of the gradient of its
       own parameters: that of the losses on a record and, in a GAN, on the fake that goes with it.
    2. The server sends its numbers to the client; the client adds its own, and sends back by what
       each sample's gradient is to be multiplied so that its norm over all parties is at most
       max_grad_norm.
    3. Every party adds up its samples' gradients so multiplied. Each client adds noise to the
       sums of its own blocks, the server to the sums over clients of its blocks.
    4. Sums are divided by the expected number of records, not by that which was drawn.

A phase that reads none, as the generator's, is run as ever: what it does follows from what was
noised before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ...errors import HuscfError, NonFiniteError, check_complete
from ...methods import Phase
from ...parties import Party
from ...parties.sample_gradients import square_norms, sum_weighted
from ...randomness import make_generator
from ...wire import SERVER, Message
from ..base import Batches, Observation, StepResult
from ..serial import Gradients, SerialEngine
from .accounting import Accountant, Exposure
from .checks import (
    check_data,
    check_same_noise,
    check_samplewise,
    find_free_passes,
    find_private_phase,
    reads_records,
)
from .client import PrivateClient
from .options import DifferentialPrivacy


class PrivateEngine(SerialEngine):
    """Trains under differential privacy of every client's records.

    Args:
        *args: As of LocalEngine.
        privacy: What is guaranteed.
        batch_sizes: Expected number of records of a batch, by client.
        **kwargs: As of LocalEngine.

    Raises:
        HuscfError: Where method or networks do not allow it.
    """

    is_private = True

    def __init__(
        self,
        *args: Any,
        privacy: DifferentialPrivacy,
        batch_sizes: Mapping[int, int],
        **kwargs: Any,
    ) -> None:
        self.privacy = privacy
        self.batch_sizes = dict(batch_sizes)
        super().__init__(*args, **kwargs)
        if self.on_nonfinite == "drop":
            raise HuscfError(
                "model.on_nonfinite: to drop a client follows from its records, which nothing "
                "accounts for under model.privacy: set it to stop"
            )
        self.wire.kinds |= {"norms"}
        self.accountant = Accountant(privacy)
        self.num_steps = dict.fromkeys(self.plan.client_ids, 0)
        self._step = 0
        phase = find_private_phase(self.method, self.method.phases(0))
        check_samplewise(self.method, self.networks, self.shape, phase)

    def make_clients(self) -> dict[int, PrivateClient]:  # type: ignore[override]
        """Return all clients by id."""
        averaged, found = self.method.averaged, {}
        for entry in self.plan.clients:
            client = PrivateClient(entry, self.networks, averaged)
            client.record_free = self.method.record_free
            client.expected_size = self.batch_sizes[entry.client_id]
            found[entry.client_id] = client
        return found

    def client(self, client_id: int) -> PrivateClient:
        """Return one client."""
        client = super().client(client_id)
        assert isinstance(client, PrivateClient)
        return client

    # Before training, and what a round says

    def begin(self) -> None:
        """Refuse, before anything is trained, a guarantee that cannot be given.

        Raises:
            HuscfError: Naming the option.
        """
        check_data(self.privacy, self.client_sizes)
        if self.privacy.noise_multiplier:
            now, then = self._expose(0), self._expose(1)
            remedies = "privacy.noise_multiplier, or take smaller batches"
            self.accountant.check_next(now, then, "privacy", "step", remedies)

    def is_spent(self) -> bool:
        """Return whether another step of some client would exceed the budget."""
        return not self.accountant.allows(self._expose(1))

    def figures(self) -> dict[str, float]:
        """Return what the records of the most exposed client have been exposed to."""
        if not self.privacy.noise_multiplier:
            return {}
        assert self.privacy.delta is not None
        epsilon = self.accountant.epsilon(self._expose(0))
        return {"privacy/epsilon": epsilon, "privacy/delta": self.privacy.delta}

    def observe(self) -> Observation:
        """Return what the server knows, without what it has seen of records."""
        return replace(super().observe(), summary=None, present=frozenset())

    # A step

    def run_step(self, batches: Batches, step: int) -> StepResult:
        """Run all phases of a step, unless it would exceed the budget.

        Raises:
            HuscfError: Where it would.
        """
        self.accountant.check_room(self._expose(1, batches), "privacy", "step")
        for client_id in batches:
            self.num_steps[client_id] += 1
        return super().run_step(batches, step)

    def load_batches(self, batches: Batches, step: int) -> list[int]:
        """Hand every client its batch, filled up to the expected number of records."""
        self._step = step
        phases = self.method.phases(step)
        free = frozenset().union(*(find_free_passes(self.method, phase) for phase in phases))
        trained = frozenset(find_private_phase(self.method, phases).trains)
        padded = {}
        for client_id, (samples, labels) in batches.items():
            client = self.client(client_id)
            client.free_passes, client.noted = free, trained
            stream = make_generator(self.seed, "partners of records", client_id, step)
            client.draw_partners(len(labels), self.client_sizes[client_id], stream)
            missing = max(0, client.expected_size - len(labels))
            filled = functional.pad(samples, (0, 0) * (samples.ndim - 1) + (0, missing))
            padded[client_id] = (filled, functional.pad(labels, (0, missing)))
        self.server.noted = trained
        return super().load_batches(padded, step)

    def run_client(self, phase: Phase, client_id: int) -> tuple[float, Gradients]:
        """Run all passes of a phase; where it reads records, clip what each of them adds."""
        loss, at_server = super().run_client(phase, client_id)
        if reads_records(self.method, phase):
            at_server = self._clip(phase, client_id)
        return loss, at_server

    def finish_gradients(self, phase: Phase, shares: Mapping[int, float]) -> None:
        """Add every party's noise to its own gradients."""
        if not reads_records(self.method, phase):
            return
        for client_id in shares:
            client = self.client(client_id)
            stream = make_generator(self.seed, "noise of privacy", self._step, client_id)
            scale = 1 / client.expected_size
            self._add_noise(client, phase, stream, dict.fromkeys(client.parameters(), scale))
        stream = make_generator(self.seed, "noise of privacy at the server", self._step)
        self._add_noise(self.server, phase, stream, self._server_scales(phase, shares))

    def _clip(self, phase: Phase, client_id: int) -> Gradients:
        """Add the records' clipped gradients to the client's; return those of the server."""
        client, names = self.client(client_id), {item.name for item in phase.passes}
        own = client.list_calls(client_id, names)
        theirs = self.server.list_calls(client_id, names)
        squares = square_norms(own, client.num_rows)
        if theirs:
            known = {"squares": square_norms(theirs, client.num_rows)}
            sent = self.wire.pass_on(Message(SERVER, client_id, "norms", phase.name, known))
            squares = squares.to(sent["squares"].device) + sent["squares"]
        # A loss is a mean over the batch: a sample's own gradient is as many times larger.
        norms = client.num_rows * squares.sqrt()
        if not bool(norms.isfinite().all()):
            raise NonFiniteError(client_id, f"{phase.name}: a record's gradient is NaN or Inf")
        factors = (self.privacy.max_grad_norm / norms).clamp(max=1.0) * float(client.is_counted)
        scale = client.num_rows / client.expected_size
        client.add_gradients(sum_weighted(own, factors * scale))
        if not theirs:
            return {}
        message = Message(client_id, SERVER, "norms", phase.name, {"factors": factors})
        return sum_weighted(theirs, self.wire.pass_on(message)["factors"] * scale)

    def _server_scales(
        self, phase: Phase, shares: Mapping[int, float]
    ) -> dict[nn.Parameter, float]:
        """Return the largest weight with which a record enters a server's gradient."""
        found: dict[nn.Parameter, float] = {}
        for network in phase.trains:
            for client_id, share in shares.items():
                scale = share / self.client(client_id).expected_size
                for parameter in self.server.segment(network, client_id).parameters():
                    found[parameter] = max(scale, found.get(parameter, 0.0))
        return found

    def _add_noise(
        self,
        party: Party,
        phase: Phase,
        stream: torch.Generator,
        scales: Mapping[nn.Parameter, float],
    ) -> None:
        """Add noise to a party's gradients, in a fixed order of its parameters."""
        strength = self.privacy.noise_multiplier * self.privacy.max_grad_norm
        for network in phase.trains:
            for parameter in party.parameters_of(network):
                if parameter.grad is not None and parameter in scales:
                    drawn = torch.randn(parameter.shape, generator=stream).to(parameter.grad)
                    parameter.grad = parameter.grad + strength * scales[parameter] * drawn

    def _expose(self, more: int, client_ids: Iterable[int] | None = None) -> list[Exposure]:
        """Return every client's exposure after so many more steps of some, or all, clients."""
        ids = self.num_steps if client_ids is None else client_ids
        return [
            Exposure(self.batch_sizes[c] / self.client_sizes[c], self.num_steps[c] + more)
            for c in ids
        ]

    # Checkpoints

    def get_state(self) -> dict[str, Any]:
        """Return what is not in the parties' parameters, and how many steps of what were taken."""
        return {
            **super().get_state(),
            "private_steps": dict(self.num_steps),
            "private_noise": self.privacy.noise_multiplier,
            "private_batches": dict(self.batch_sizes),
        }

    def set_structure(self, state: Mapping[str, Any], may_join: bool = False) -> tuple[str, ...]:
        """Take over plan, clusters, counters, and the steps that were taken.

        Raises:
            CheckpointError: Where the checkpoint's steps were not counted, or had other noise or
                batches, so that they would be counted as if they had these.
        """
        check_complete(state, ["private_steps"])
        check_same_noise(state, self.privacy.noise_multiplier, self.batch_sizes)
        fresh = super().set_structure(state, may_join)
        self.num_steps |= {int(c): int(count) for c, count in state["private_steps"].items()}
        return fresh
