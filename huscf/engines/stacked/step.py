"""One step of the stacked engine: phase by phase, microbatch by microbatch."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ...errors import NonFiniteError
from ...federation import TreeSum
from ...methods import Phase
from ...wire import MemoryWire
from .microbatch import Microbatch
from .norm_stats import NormStats
from .phase_run import PhaseRun, Sums
from .threads import GroupThreads

if TYPE_CHECKING:
    from .engine import StackedEngine

#: Samples whose passes are kept from one phase to the next, and after which the clients that are
#: done with a phase are stepped (docs/performance.md).
CHUNK_SAMPLES = 512


class StackedStep:
    """One step's passes: what must outlive a phase, and who is still taking part.

    All sums over clients follow one tree over microbatches, so that it does not matter which
    thread runs which.

    Args:
        engine: The engine.
        sizes: Samples of each participant.
        phases: Of the step.
        threads: How microbatches are run at once; None runs one after the other.

    Attributes:
        microbatches: All of the step.
        own: Places of those that this process runs.
    """

    def __init__(
        self,
        engine: "StackedEngine",
        sizes: Mapping[int, int],
        phases: Sequence[Phase],
        threads: GroupThreads | None,
    ) -> None:
        self.engine = engine
        self.sizes = dict(sizes)
        self.threads = threads or GroupThreads()
        self.shared_passes = _list_shared(phases)
        #: Running statistics follow passes in this order, whenever they were made.
        self.pass_names = list(dict.fromkeys(p.name for phase in phases for p in phase.passes))
        is_pure = all(map(engine.is_stackable, sizes))
        wire = engine.wire
        is_identity = isinstance(wire, MemoryWire) and wire.is_identity
        groups = engine.divide(sizes)
        self.microbatches = [Microbatch(group) for group in groups]
        self.own = self._choose_own()
        # Of what a wire draws or remembers, threads would change the order.
        can_share = threads is not None and is_pure and is_identity
        device = next(iter(engine.parties.parameters())).device
        count = len(self.own)
        self.num_threads = self.threads.count(count, device) if can_share else 1
        samples = max((len(group) * sizes[group[0]] for group in groups), default=1)
        limit = CHUNK_SAMPLES // (samples * self.num_threads)
        self.chunk = self.num_threads * max(1, limit)
        for place in self.own[self.chunk :]:
            self.microbatches[place].keeps_passes = not (is_pure and is_identity)

    @property
    def active(self) -> list[int]:
        """Return the clients still taking part, ascending."""
        return sorted(c for microbatch in self.microbatches for c in microbatch.client_ids)

    @property
    def own_clients(self) -> list[int]:
        """Return those of them whose part this process runs."""
        return sorted(c for place in self.own for c in self.microbatches[place].client_ids)

    def run_phase(self, phase: Phase) -> float:
        """Run a phase for every participant, then step the networks that it trains.

        Returns:
            Mean loss over the participants; NaN if none is left.
        """
        shares = self.engine.server_shares(self.active)
        # Not after the last step: memory that goes back to the system has to be asked for again.
        self._free_gradients(phase)
        total = self._sum_over_all(phase, shares) or Sums(shares)
        active = self.active
        if 0 < len(active) < len(shares):
            total.gradients.scale(1 / sum(shares[client_id] for client_id in active))
        total.gradients.write()
        for network in phase.trains:
            self.engine.server.check_gradients(network)
        self._step(phase)
        values = [total.losses[client_id] for client_id in active]
        return sum(values) / len(values) if values else float("nan")

    def update_norms(self) -> None:
        """Let running statistics follow the step's batches, microbatch by microbatch."""
        for statistics in self.list_norm_stats(self.own).values():
            for each in statistics:
                each.update_running_stats()

    def list_norm_stats(self, places: Iterable[int]) -> dict[tuple[int, int], list[NormStats]]:
        """Return batch statistics of microbatches, by their place and that of the pass."""
        return {
            (place, which): found
            for place in places
            for which, name in enumerate(self.pass_names)
            if (found := self.microbatches[place].deferred.get(name))
        }

    def _choose_own(self) -> list[int]:
        return list(range(len(self.microbatches)))

    def _sum_over_all(self, phase: Phase, shares: dict[int, float]) -> Sums | None:
        """Run a phase, and return what all participants come to."""
        return self._run_own(phase, shares).result()

    def _run_own(self, phase: Phase, shares: dict[int, float]) -> TreeSum[Sums]:
        """Run a phase for the clients whose part is run here."""
        total = TreeSum(len(self.microbatches), Sums.join)
        for start in range(0, len(self.own), self.chunk):
            chunk = self.own[start : start + self.chunk]
            if start:
                # A client's blocks train on its own data alone: step them, and free the gradients.
                self._step(phase)
                self._free_gradients(phase)
            work = partial(self._run_microbatches, phase, shares, total)
            self.threads.run(work, chunk, min(self.num_threads, len(chunk)))
        return total

    def _step(self, phase: Phase) -> None:
        for network in phase.trains:
            self.engine.fused(network).step()

    def _free_gradients(self, phase: Phase) -> None:
        for network in phase.trains:
            self.engine.fused(network).free_gradients()

    def _run_microbatches(
        self, phase: Phase, shares: dict[int, float], total: TreeSum[Sums], places: Sequence[int]
    ) -> None:
        for place in places:
            total.add(place, self._run_microbatch(phase, self.microbatches[place], shares))

    def _run_microbatch(
        self, phase: Phase, microbatch: Microbatch, shares: dict[int, float]
    ) -> Sums | None:
        """Run a phase; begin again without a client that sends NaN, Inf or an explosion."""
        finished = dict(microbatch.deferred)
        while microbatch.client_ids:
            sums = Sums(shares)
            try:
                PhaseRun(self.engine, self.shared_passes, phase, microbatch, sums).run()
            except NonFiniteError as error:
                microbatch.deferred = dict(finished)
                self._drop(error, microbatch)
            else:
                return sums
        return None

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
