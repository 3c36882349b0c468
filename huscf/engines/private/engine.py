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

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...methods import Phase
from ...parties.sample_gradients import square_norms, sum_weighted
from ...randomness import make_generator, make_wide_rng
from ...wire import SERVER, Message
from ..base import Batches, StepResult
from ..serial import Gradients, SerialEngine
from .budgeted import BudgetedEngine
from .checks import reads_records
from .client import PrivateClient
from .clipping import Reading, add_noise, clip_client, list_calls, scale_server
from .options import DifferentialPrivacy


class PrivateEngine(BudgetedEngine, SerialEngine):
    """Trains under differential privacy of every client's records.

    Args:
        *args: As of LocalEngine.
        privacy: What is guaranteed.
        batch_sizes: Expected number of records of a batch, by client.
        **kwargs: As of LocalEngine.

    Raises:
        HuscfError: Where method or networks do not allow it.
    """

    def __init__(
        self,
        *args: Any,
        privacy: DifferentialPrivacy,
        batch_sizes: Mapping[int, int],
        **kwargs: Any,
    ) -> None:
        self.batch_sizes, self._step = dict(batch_sizes), 0
        super().__init__(*args, **kwargs)
        self.protect(privacy, batch_sizes)

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

    # A step

    def run_step(self, batches: Batches, step: int) -> StepResult:
        """Run all phases of a step, unless it would exceed the budget.

        Raises:
            HuscfError: Where it would.
        """
        self.budget.count(list(batches))
        return super().run_step(batches, step)

    def load_batches(self, batches: Batches, step: int) -> list[int]:
        """Hand every client its batch, filled up to the expected number of records."""
        self._step = step
        free, trained = Reading.of(self.method, self.method.phases(step))
        padded = {}
        for client_id, (samples, labels) in batches.items():
            client = self.client(client_id)
            client.free_passes, client.noted = free, trained
            stream = make_generator(self.seed, "partners of records", client_id, step)
            most = self.client_sizes[client_id]
            padded[client_id] = client.fill_batch(samples, labels, most, stream)
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
            rng = make_wide_rng(self.seed, "noise of privacy", self._step, client_id)
            scales = dict.fromkeys(client.parameters(), 1 / client.expected_size)
            add_noise(client, phase.trains, self.privacy, scales, rng)
        rng = make_wide_rng(self.seed, "noise of privacy at the server", self._step)
        scales = scale_server(self.server, phase, shares, self.batch_sizes)
        add_noise(self.server, phase.trains, self.privacy, scales, rng)

    def _clip(self, phase: Phase, client_id: int) -> Gradients:
        """Add the records' clipped gradients to the client's; return those of the server."""
        client, topic = self.client(client_id), phase.name
        calls = list_calls(self.server, phase, client_id)

        def tell_squares() -> Tensor | None:
            if not calls:
                return None
            known = {"squares": square_norms(calls, client.num_rows)}
            return self.wire.pass_on(Message(SERVER, client_id, "norms", topic, known))["squares"]

        factors = clip_client(client, phase, self.privacy, tell_squares)
        if not calls:
            return {}
        message = Message(client_id, SERVER, "norms", topic, {"factors": factors})
        scale = client.num_rows / client.expected_size
        return sum_weighted(calls, self.wire.pass_on(message)["factors"] * scale)
