"""The server's part of differential privacy of records at sites.

It tells a site the squared norms of its own blocks' gradients, record by record, weighs their sums
by the factors that the site sends back, and adds noise to the sums over clients. What it draws is
its own: sites know the run's seed, and clients must not know the noise.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...methods import Pass, Phase
from ...parties.sample_gradients import LayerCall, square_norms, sum_weighted
from ...randomness import make_wide_rng
from ...wire import SERVER, Message
from ...wire.frames import Frame, FrameError, TensorSpec
from ..base import StepResult
from ..private.budgeted import BudgetedEngine
from ..private.checks import reads_records
from ..private.clipping import Reading, add_noise, list_calls, scale_server
from ..private.options import DifferentialPrivacy
from .engine import RemoteEngine
from .step import DroppedError, RemoteStep


class PrivateRemoteEngine(BudgetedEngine, RemoteEngine):
    """Holds the server of sites whose records are private; see PrivateEngine.

    Others' losses follow from records, without noise, so that no site is told of them.

    Args:
        *args: As of RemoteEngine.
        privacy: What is guaranteed.
        keep: Keeps what was counted before a step is taken; see RecordBudget.
        **kwargs: As of RemoteEngine.

    Raises:
        HuscfError: Where method or networks do not allow it.
    """

    def __init__(
        self,
        *args: Any,
        privacy: DifferentialPrivacy,
        keep: Callable[[dict[str, Any]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.protect(privacy, self.batch_sizes, keep)

    @property
    def tells_losses(self) -> bool:
        """Return that a site knows the losses of its own clients alone."""
        return False

    def run_step(self, batches: Any, step: int) -> StepResult:
        """Count a step of the clients that are named, whatever becomes of it, and run it."""
        self.budget.count(sorted(batches))
        return super().run_step(batches, step)

    def make_step(self, step: int, active: list[int]) -> RemoteStep:
        """Return what takes what these clients send in a step."""
        return PrivateRemoteStep(self, step, active)


class PrivateRemoteStep(RemoteStep):
    """A step in whose private phase a client adds to the server what has been clipped, or nothing.

    Args:
        engine: Whose server it is.
        step: Number of the step.
        client_ids: Who takes part, ascending.
    """

    engine: PrivateRemoteEngine

    def __init__(self, engine: PrivateRemoteEngine, step: int, client_ids: list[int]) -> None:
        super().__init__(engine, step, client_ids)
        self.reading = Reading.of(engine.method, self.phases)
        engine.server.noted = self.reading.trained
        self._rows: dict[int, int] = {}
        self._calls: dict[int, list[LayerCall]] = {}

    def take_counts(self, counts: Mapping[int, int]) -> None:
        """Take how many records clients have drawn; one row where there are none.

        Raises:
            FrameError: Where a client has not so many, or has said it in this step.
        """
        with self.changed:
            for client_id, count in counts.items():
                if not 1 <= count <= self.engine.client_sizes[client_id]:
                    raise FrameError(f"records: {count} of client {client_id}")
                if client_id in self._rows:
                    raise FrameError(f"records: those of client {client_id} are known")
            self._rows.update(counts)

    def count_rows(self, client_id: int, item: Pass) -> int:
        """Return how many samples a client's pass has: of records, as many as its site drew."""
        if item.name in self.reading.free_passes:
            return self.engine.batch_sizes[client_id]
        if client_id not in self._rows:
            raise FrameError(f"pass {item.name}: client {client_id} has not told how many records")
        return self._rows[client_id]

    def exchange_norms(self, frame: Frame) -> Mapping[str, Tensor]:
        """Tell a client its records' squared norms at the server, then clip them by its factors."""
        client_id = frame.header["client"]
        with self.changed:
            phase = self._find_private(frame.header)
            if not frame.names:
                return self._tell(client_id, phase)
            if not self._calls.get(client_id):
                raise FrameError(f"norms: those of client {client_id} are to be asked for first")
            spec = TensorSpec(torch.float32, (self._rows[client_id],))
            factors = self.engine.open(frame, "norms", {"factors": spec})["factors"]
            if not bool(((factors >= 0) & (factors <= 1)).all()):
                raise FrameError("norms: a factor is not from 0 to 1")
            message = Message(client_id, SERVER, "norms", phase.name, {"factors": factors})
            self.engine.wire.note(message)
            scale = self._rows[client_id] / self.engine.batch_sizes[client_id]
            # Of no calls but those whose norms it was told.
            self._gradients[client_id] = sum_weighted(self._calls.pop(client_id), factors * scale)
            return {}

    def finish_gradients(self, phase: Phase, shares: Mapping[int, float]) -> None:
        """Add the server's noise to the sums over clients."""
        engine = self.engine
        if reads_records(engine.method, phase):
            purpose = "noise of privacy at the server"
            rng = make_wide_rng(engine.noise_seed, purpose, self.step)
            scales = scale_server(engine.server, phase, shares, engine.batch_sizes)
            add_noise(engine.server, phase.trains, engine.privacy, scales, rng)

    def _find_private(self, header: Mapping[str, Any]) -> Phase:
        """Return the phase of whose records a client asks."""
        client_id = header["client"]
        if header["step"] != self.step or client_id not in self.active:
            raise DroppedError
        if header["phase"] != self.phase or self.phase >= len(self.phases):
            raise FrameError(f"norms: phase {header['phase']} is not running")
        phase = self.phases[self.phase]
        if not reads_records(self.engine.method, phase):
            raise FrameError("norms: this phase reads no records")
        return phase

    def _tell(self, client_id: int, phase: Phase) -> Mapping[str, Tensor]:
        calls = self._calls[client_id] = list_calls(self.engine.server, phase, client_id)
        if not calls:
            return {}
        squares = square_norms(calls, self._rows[client_id])
        message = Message(SERVER, client_id, "norms", phase.name, {"squares": squares})
        return self.engine.wire.depart(message)
