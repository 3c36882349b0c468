"""The server's half of one step: passes as they arrive, and phases that end for all at once."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import NonFiniteError
from ...methods import Pass, Phase
from ...models import Carry
from ...wire import SERVER, Kind, Message
from ...wire.frames import Frame, FrameError
from ..serial import Gradients, sum_gradients
from .deferred_norms import DeferredNorms, find_norms, is_order_free
from .parts import join_parts, open_parts
from .protocol import Reply, read_runs

if TYPE_CHECKING:
    from .engine import RemoteEngine

#: A client's run of a pass.
Run = tuple[int, Pass]
#: What the server does of a run, with the tensors that have arrived.
RunMiddle = Callable[[int, Pass, dict[str, Tensor]], Mapping[str, Tensor]]


class DroppedError(Exception):
    """The client is out of this step: it was late, or sent what is not finite."""


class RemoteStep:
    """Takes what clients send in a step; threads may call it for different clients.

    Every tensor is checked against the client's cuts before it is made. What clients add to the
    server, gradients and running statistics, is added when a phase ends, in the order of clients:
    it does not depend on who came first.

    Args:
        engine: Whose server it is.
        step: Number of the step.
        client_ids: Who takes part, ascending.
    """

    def __init__(self, engine: "RemoteEngine", step: int, client_ids: list[int]) -> None:
        self.engine, self.step = engine, step
        self.phases = list(engine.method.phases(step))
        self.active = list(client_ids)
        self.phase = 0
        self.dropped: list[int] = []
        self.failure: NonFiniteError | None = None
        self.is_abandoned = False
        self.results: list[tuple[list[int], float]] = []
        self.waited: list[float] = []
        self.changed = threading.Condition(threading.RLock())
        self.in_turn = not is_order_free(engine.server.trained)
        self._run: dict[int, set[str]] = {c: set() for c in client_ids}
        self._begin_phase()

    # What handlers call

    def forward(self, frame: Frame) -> Reply:
        """Run the server's blocks of some passes, each for one client."""
        with self.changed:
            runs = self._find(frame.header)
            self._wait_for_turn(runs)
            for client_id, item in self._list_active(runs):
                if item.name in self._run[client_id]:
                    raise FrameError(f"forward: client {client_id} has run pass {item.name}")
            return self._answer(frame, "activations", runs, self._run_middle)

    def backward(self, frame: Frame) -> Reply:
        """Go back through the server's blocks of some passes, each for one client."""
        with self.changed:
            runs, phase = self._find(frame.header), self.phases[self.phase]
            for client_id, item in self._list_active(runs):
                if item.name not in self._run[client_id]:
                    raise FrameError(f"backward: client {client_id} has not run pass {item.name}")
                if phase.backward_of(item) == "none" or item.name in self._gone_back[client_id]:
                    raise FrameError(f"backward: pass {item.name} gives no gradients now")
            return self._answer(frame, "gradients", runs, self._go_back_middle)

    def finish(
        self, phase: int, losses: dict[int, float], failed: dict[int, str], wait_s: float
    ) -> dict[str, Any]:
        """Take the losses of a site's clients, and wait for the phase's end.

        Returns:
            A commit, or wait where the phase is still running after `wait_s`.
        """
        with self.changed:
            if not 0 <= phase <= self.phase:
                raise FrameError(f"finish: phase {phase} has not begun")
            if phase == self.phase:
                for client_id, reason in failed.items():
                    self._fail(NonFiniteError(client_id, reason))
                for client_id, value in losses.items():
                    if client_id in self.active:
                        self._losses[client_id] = value
                self.changed.notify_all()
            self.changed.wait_for(lambda: self.phase > phase or self._has_stopped(), wait_s)
            if self.phase <= phase:
                return {"kind": "wait"}
            committed, loss = self.results[phase]
            mine = {c: own for c, own in losses.items() if c in committed}
            if not self.engine.tells_losses:
                loss = _mean(mine)
            return {"kind": "commit", "clients": [*mine], "loss": loss}

    def take_counts(self, counts: Mapping[int, int]) -> None:
        """Take how many records clients have drawn; steps whose batches differ in size override."""
        raise FrameError("records: batches are of one size in this run")

    def exchange_norms(self, frame: Frame) -> Mapping[str, Tensor]:
        """Tell of records' gradients, or clip them; steps that know such override."""
        raise FrameError("norms: this run clips no records")

    # What steps of other kinds override

    def count_rows(self, client_id: int, item: Pass) -> int:
        """Return how many samples a client's pass has."""
        return self.engine.batch_sizes[client_id]

    def finish_gradients(self, phase: Phase, shares: Mapping[int, float]) -> None:
        """Change the server's gradients before it steps; see SerialEngine."""

    # What the engine calls

    def end_phase(self, timeout_s: float) -> float:
        """Wait until all have finished or the time is over, step the server, open the next phase.

        Returns:
            The mean loss over those that finished; NaN where nobody did.

        Raises:
            NonFiniteError: Where a client sent what is not finite and that stops the run.
        """
        started = time.monotonic()
        with self.changed:
            self.changed.wait_for(self._is_complete, timeout_s)
            self.waited.append(time.monotonic() - started)
            if self.failure is not None:
                raise self.failure
            for client_id in [c for c in self.active if c not in self._losses]:
                self.drop(client_id)
            loss = self._commit(self.phases[self.phase])
            self.results.append((list(self.active), loss))
            self.phase += 1
            self._begin_phase()
            self.changed.notify_all()
            return loss

    def abandon(self) -> None:
        """Let nobody wait for this step any longer: the server does not end it."""
        with self.changed:
            self.is_abandoned = True
            self.changed.notify_all()

    def drop(self, client_id: int) -> None:
        """Leave a client out of the rest of the step, as if it had not been there."""
        with self.changed:
            if client_id not in self.active:
                return
            self.active.remove(client_id)
            self.dropped.append(client_id)
            self.engine.num_dropped[client_id] += 1
            for kept in (self._losses, self._gradients, self._norms):
                kept.pop(client_id, None)
            self.engine.server.statistics.drop(client_id)
            self.engine.server.guard.drop(client_id)
            self.changed.notify_all()

    # Helpers

    def _begin_phase(self) -> None:
        self._losses: dict[int, float] = {}
        self._gradients: dict[int, Gradients] = {c: {} for c in self.active}
        self._norms = {c: DeferredNorms() for c in self.active}
        self._gone_back: dict[int, set[str]] = {c: set() for c in self.active}
        self._turns_over: set[int] = set()

    def _has_stopped(self) -> bool:
        return self.failure is not None or self.is_abandoned

    def _is_complete(self) -> bool:
        return self.failure is not None or all(c in self._losses for c in self.active)

    def _commit(self, phase: Phase) -> float:
        """Add what clients gave to the server, in their order, and step."""
        losses = {c: self._losses[c] for c in self.active}
        for client_id in losses:
            self._norms[client_id].follow()
        shares = self.engine.server_shares(losses)
        sum_gradients(shares, self._gradients)
        self.finish_gradients(phase, shares)
        for network in phase.trains:
            self.engine.server.check_gradients(network)
            self.engine.server.step(network)
        return _mean(losses)

    def _find(self, header: dict[str, Any]) -> list[Run]:
        """Return what a request is of, where it may be of it now."""
        named = read_runs(header["runs"])
        if header["step"] != self.step or not any(c in self.active for c, _ in named):
            raise DroppedError
        if header["phase"] != self.phase or self.phase >= len(self.phases):
            raise FrameError(f"{header['kind']}: phase {header['phase']} is not running")
        known = {item.name: item for item in self.phases[self.phase].passes}
        for _, name in named:
            if name not in known:
                raise FrameError(f"{header['kind']}: no pass {name!r:.40} in this phase")
        return [(client_id, known[name]) for client_id, name in named]

    def _list_active(self, runs: Iterable[Run]) -> list[Run]:
        return [(client_id, item) for client_id, item in runs if client_id in self.active]

    def _answer(self, frame: Frame, kind: Kind, runs: Sequence[Run], run: RunMiddle) -> Reply:
        """Run what a frame is of; nothing is run where some of it does not fit."""
        answers: list[Mapping[str, Tensor]] = []
        for each, arrived in zip(runs, self._open(frame, kind, runs), strict=True):
            is_admitted = self._admit(each, kind, arrived)
            answers.append(self._depart(each, kind, run(*each, arrived)) if is_admitted else {})
        if not self._list_active(runs):
            raise DroppedError
        dropped = sorted({client_id for client_id, _ in runs} - {*self.active})
        kept = [a if c not in dropped else {} for (c, _), a in zip(runs, answers, strict=True)]
        return {"kind": "ok", "dropped": dropped}, join_parts(kept)

    def _open(self, frame: Frame, kind: Kind, runs: Sequence[Run]) -> list[dict[str, Tensor]]:
        """Return what has arrived for each run, checked against its client's cuts."""
        is_back, expected = kind == "gradients", []
        for client_id, item in runs:
            crossings, size = self.engine.crossings[client_id], self.count_rows(client_id, item)
            specs = (crossings.gradients_up if is_back else crossings.up)(item.network, size)
            expected.append((crossings.name(item.network, kind, True)[1], specs))
        return open_parts(frame, [self.engine.wire] * len(runs), expected, optional=is_back)

    def _depart(self, run: Run, kind: Kind, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        client_id, item = run
        topic, kind = self.engine.crossings[client_id].name(item.network, kind, False)
        return self.engine.wire.depart(Message(SERVER, client_id, kind, topic, tensors))

    def _run_middle(self, client_id: int, item: Pass, arrived: dict[str, Tensor]) -> Carry:
        norms = find_norms(self.engine.server.segment(item.network, client_id))
        with self._norms[client_id].recording(norms):
            written = self.engine.server.run_middle(item, client_id, arrived)
        self._run[client_id].add(item.name)
        down = self.engine.crossings[client_id].crossings[item.network].down
        return {name: written[name] for name in down}

    def _go_back_middle(self, client_id: int, item: Pass, arrived: dict[str, Tensor]) -> Carry:
        phase, own = self.phases[self.phase], self._gradients[client_id]
        back, found = self.engine.server.go_back_middle(item, phase, client_id, arrived)
        self._gone_back[client_id].add(item.name)
        for parameter, gradient in found.items():
            own[parameter] = own.get(parameter, 0.0) + gradient
        self._end_turn(client_id)
        return back

    def _admit(self, run: Run, kind: Kind, tensors: dict[str, Tensor]) -> bool:
        """Count what has arrived, and look at it; return whether it may be used."""
        client_id, item = run
        if client_id not in self.active:
            return False
        topic, kind = self.engine.crossings[client_id].name(item.network, kind, True)
        self.engine.wire.note(Message(client_id, SERVER, kind, topic, tensors))
        guard = self.engine.server.guard
        try:
            for tensor in tensors.values():
                guard.check(kind, topic, [client_id], tensor.unsqueeze(1), item.name)
        except NonFiniteError as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: NonFiniteError) -> None:
        if error.client_id not in self.active:
            return
        self.drop(error.client_id)
        if self.engine.on_nonfinite == "stop":
            self.failure = error
            self.changed.notify_all()

    def _wait_for_turn(self, runs: Sequence[Run]) -> None:
        """Wait for the clients before this one, where their order matters."""
        client_id = runs[0][0]
        if self.in_turn:
            if any(other != client_id for other, _ in runs):
                raise FrameError("forward: clients run one after the other here")
            phase = self.phase
            self.changed.wait_for(
                lambda: self.phase > phase or self._has_stopped() or self._is_turn_of(client_id)
            )
            if self.phase > phase or self._has_stopped() or client_id not in self.active:
                raise DroppedError

    def _is_turn_of(self, client_id: int) -> bool:
        before = (c for c in self.active if c < client_id)
        return client_id not in self.active or all(
            c in self._losses or c in self._turns_over for c in before
        )

    def _end_turn(self, client_id: int) -> None:
        """Let the next client run, once all of this one's passes are over."""
        phase = self.phases[self.phase]
        wanted = {p.name for p in phase.passes if phase.backward_of(p) != "none"}
        if wanted <= self._gone_back[client_id]:
            self._turns_over.add(client_id)
            self.changed.notify_all()


def _mean(losses: Mapping[int, float]) -> float:
    """Return the mean over clients; NaN where there are none."""
    return sum(losses.values()) / len(losses) if losses else float("nan")
