"""One step of the stacked engine: phase by phase, microbatch by microbatch."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ...errors import NonFiniteError
from ...methods import Phase
from ...wire import MemoryWire
from .microbatch import Microbatch, divide_clients
from .phase_run import PhaseRun, Sums
from .threads import GroupThreads

if TYPE_CHECKING:
    from .engine import StackedEngine

#: Samples whose passes are kept from one phase to the next, and after which the clients that are
#: done with a phase are stepped (docs/performance.md).
CHUNK_SAMPLES = 512


class StackedStep:
    """One step's passes: what must outlive a phase, and who is still taking part.

    Args:
        engine: The engine.
        client_ids: The participants, whose batches have been loaded.
        phases: Of the step.
        threads: How microbatches are run at once; None runs one after the other.
    """

    def __init__(
        self,
        engine: "StackedEngine",
        client_ids: Sequence[int],
        phases: Sequence[Phase],
        threads: GroupThreads | None,
    ) -> None:
        self.engine = engine
        self.threads = threads or GroupThreads()
        self.shared_passes = _list_shared(phases)
        is_pure = all(map(engine.is_stackable, client_ids))
        wire = engine.wire
        is_identity = isinstance(wire, MemoryWire) and wire.is_identity
        sizes = {c: len(next(iter(engine.client(c).private.values()))) for c in client_ids}
        groups = divide_clients(sizes, self._describe, engine.is_stackable)
        self.microbatches = [Microbatch(group) for group in groups]
        # Of what a wire draws or remembers, threads would change the order.
        can_share = threads is not None and is_pure and is_identity
        device = next(iter(engine.parties.parameters())).device
        count = len(self.microbatches)
        self.num_threads = self.threads.count(count, device) if can_share else 1
        samples = max((len(group) * sizes[group[0]] for group in groups), default=1)
        limit = CHUNK_SAMPLES // (samples * self.num_threads)
        self.chunk = self.num_threads * max(1, limit)
        for microbatch in self.microbatches[self.chunk :]:
            microbatch.keeps_passes = not (is_pure and is_identity)

    @property
    def active(self) -> list[int]:
        """Return the clients still taking part, ascending."""
        return sorted(c for microbatch in self.microbatches for c in microbatch.client_ids)

    def run_phase(self, phase: Phase) -> float:
        """Run a phase for every participant, then step the networks that it trains.

        Returns:
            Mean loss over the participants; NaN if none is left.
        """
        shares = self.engine.server_shares(self.active)
        total = Sums(shares)
        # Not after the last step: memory that goes back to the system has to be asked for again.
        self._free_gradients(phase)
        for start in range(0, len(self.microbatches), self.chunk):
            chunk = self.microbatches[start : start + self.chunk]
            if start:
                # A client's blocks train on its own data alone: step them, and free the gradients.
                self._step(phase)
                self._free_gradients(phase)
            work = partial(self._run_microbatches, phase, shares)
            for sums in self.threads.run(work, chunk, min(self.num_threads, len(chunk))):
                total.add(sums)
            for microbatch in chunk:
                microbatch.update_shared_stats()
        active = self.active
        if 0 < len(active) < len(shares):
            total.gradients.scale(1 / sum(shares[client_id] for client_id in active))
        total.gradients.write()
        for network in phase.trains:
            self.engine.server.check_gradients(network)
        self._step(phase)
        values = [total.losses[client_id] for client_id in active]
        return sum(values) / len(values) if values else float("nan")

    def _step(self, phase: Phase) -> None:
        for network in phase.trains:
            self.engine.fused(network).step()

    def _free_gradients(self, phase: Phase) -> None:
        for network in phase.trains:
            self.engine.fused(network).free_gradients()

    def _describe(self, client_id: int) -> tuple[int, tuple[range, ...]]:
        server = self.engine.server
        ranges = tuple(server.server_range(network, client_id) for network in self.engine.networks)
        return server.trained.route[client_id], ranges

    def _run_microbatches(
        self, phase: Phase, shares: dict[int, float], microbatches: Sequence[Microbatch]
    ) -> Sums:
        sums = Sums(shares)
        for microbatch in microbatches:
            self._run_microbatch(phase, microbatch, sums)
        return sums

    def _run_microbatch(self, phase: Phase, microbatch: Microbatch, sums: Sums) -> None:
        """Run a phase; begin again without a client that sends NaN, Inf or an explosion."""
        num_finished, counted = len(microbatch.deferred), set(microbatch.counted)
        while microbatch.client_ids:
            # Apart where they may have to be thrown away; adding them costs a pass over memory.
            own = sums if self.engine.on_nonfinite == "stop" else Sums(sums.shares)
            try:
                PhaseRun(self.engine, self.shared_passes, phase, microbatch, own).run()
            except NonFiniteError as error:
                del microbatch.deferred[num_finished:]
                microbatch.counted = set(counted)
                self._drop(error, microbatch)
            else:
                microbatch.update_own_stats(num_finished)
                if own is not sums:
                    sums.add(own)
                return

    def _drop(self, error: NonFiniteError, microbatch: Microbatch) -> None:
        """Leave a client out of the rest of the step, or stop the run."""
        engine = self.engine
        if engine.on_nonfinite == "stop":
            raise error
        for client_id in microbatch.client_ids:
            engine.client(client_id).zero_grad(set_to_none=True)
        engine.client(error.client_id).forget_learned()
        microbatch.remove(error.client_id)
        engine.num_dropped[error.client_id] += 1
        engine.server.statistics.drop(error.client_id)
        engine.server.guard.drop(error.client_id)


def _list_shared(phases: Sequence[Phase]) -> set[str]:
    """Return the names of passes that several phases of a step have."""
    counts = Counter(item.name for phase in phases for item in phase.passes)
    return {name for name, count in counts.items() if count > 1}
