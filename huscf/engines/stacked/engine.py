"""The fast engine for one process: alike clients side by side, groups in threads."""

from collections.abc import Mapping, Sequence

import torch

from ...methods import Phase
from ...parties import Segment
from ..base import Batches, LazyBatches, StepResult, count_samples
from ..local import LocalEngine
from .fused_step import FusedStep
from .microbatch import divide_clients
from .run_stacked import can_stack, draws_random_numbers
from .step import StackedStep
from .threads import GroupThreads


class StackedEngine(LocalEngine):
    """Runs what SerialEngine runs, to rounding, as fast as one process can."""

    #: Whether microbatches may run in several threads.
    uses_threads = True

    def on_new_structure(self) -> None:
        """Forget which blocks may be stacked, and whose parameters are stepped together."""
        self._fused: dict[str, FusedStep] = {}
        self._present: tuple[int, ...] = ()
        self._stackable: dict[Segment, bool] = {}
        self._divided: tuple[dict[int, int], list[list[int]]] = {}, []

    def run_step(self, batches: Batches, step: int) -> StepResult:
        """Run all phases of a step for the clients that have a batch."""
        sizes = count_samples(batches)
        dropped_before = dict(self.num_dropped)
        phases = self.method.phases(step)
        run = self._begin_step(sizes, phases)
        own = run.own_clients
        self._set_present(tuple(own))
        with run.threads.shared_out(run.num_threads):
            own_sizes = {client_id: sizes[client_id] for client_id in own}
            self.load_batches(LazyBatches(own_sizes, batches.__getitem__), step)
            losses = {phase.name: run.run_phase(phase) for phase in phases}
            run.update_norms()
            self.update_averages(step, run.own_clients)
            self.commit_step(own)
        dropped = (c for c, count in self.num_dropped.items() if count > dropped_before[c])
        return StepResult(losses, tuple(dropped))

    def _begin_step(self, sizes: Mapping[int, int], phases: Sequence[Phase]) -> StackedStep:
        return StackedStep(self, sizes, phases, GroupThreads() if self.uses_threads else None)

    def divide(self, sizes: Mapping[int, int]) -> list[list[int]]:
        """Return groups of a step's clients that run side by side; the same every time.

        Args:
            sizes: Samples of each participant.
        """
        if self._divided[0] != sizes:
            groups = divide_clients(sizes, self._describe, self.is_stackable)
            self._divided = dict(sizes), groups
        return self._divided[1]

    def _describe(self, client_id: int) -> tuple[int, tuple[range, ...]]:
        ranges = (self.server.server_range(name, client_id) for name in self.networks)
        return self.server.trained.route[client_id], tuple(ranges)

    def fused(self, network: str) -> FusedStep:
        """Return what steps a network's blocks of the server and all who take part at once."""
        if network not in self._fused:
            parties = [*map(self.client, self._present), self.server]
            optimizers = (party.optimizers.get(network) for party in parties)
            self._fused[network] = FusedStep([each for each in optimizers if each is not None])
        return self._fused[network]

    def _set_present(self, client_ids: tuple[int, ...]) -> None:
        if client_ids != self._present:
            # Of those who leave, too: nobody frees them later.
            for fused in self._fused.values():
                fused.free_gradients()
            self._fused, self._present = {}, client_ids

    def is_stackable(self, client_id: int) -> bool:
        """Return whether all blocks that serve a client may run beside those of others."""
        client = self.client(client_id)
        return all(
            self.can_stack_segment(segment, network)
            for network in self.networks
            for segment in (
                *client.trained.segments(network),
                self.server.segment(network, client_id),
            )
        )

    def can_stack_segment(self, segment: Segment, network: str) -> bool:
        """Return whether a segment's blocks may run several clients' batches at once."""
        known = self._stackable.get(segment)
        if known is None:
            blocks = segment.by_index()
            known = can_stack(blocks.values()) and not self.draws(network, blocks.get(0))
            self._stackable[segment] = known
        return known

    def draws(self, network: str, first: torch.nn.Module | None) -> bool:
        """Return whether a network's first block draws, which threads would do in any order."""
        if first is None:
            return False
        device = next((p.device for p in first.parameters()), torch.device("cpu"))
        inputs = {name: t.to(device) for name, t in self.example_inputs[network].items()}
        return draws_random_numbers(first, 0, inputs)
