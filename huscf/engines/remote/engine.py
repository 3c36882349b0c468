"""The engine at the server: clients live at sites, and are asked over a network."""

import secrets
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from ...errors import HuscfError
from ...federation import ActivationStatistics, ReferenceObserver
from ...parties import Client
from ...split import ClientPlan, CutPlan
from ...wire import SERVER, Kind, MemoryWire, Message
from ...wire.frames import Frame, FrameError, TensorSpec
from ..base import Batches, Mixture, Move, Observation, StepResult
from ..crossing import check_plan
from ..local import LocalEngine
from ..secure_mixing import SumRef, plan_sums
from .block_exchange import BlockExchange
from .block_frames import BlockRef
from .drawing import answer_draw
from .expected import Crossings, open_frame
from .last_averages import LastAverages
from .mirror import Mirror
from .moves import State, list_given, move_at_server
from .protocol import Reply, read_failures, read_losses, read_runs
from .secure_sums import SiteSums
from .sessions import Sessions
from .step import DroppedError, RemoteStep
from .sums import take_sums


class RemoteEngine(LocalEngine):
    """Holds the server alone; a step gives what SerialEngine gives, bit for bit.

    Args:
        sessions: The sites; set it before the first step.
        batch_sizes: Samples per step by client id.
        timeout_s: A phase ends after so long, without the clients that are late.

    Attributes:
        blocks: What crosses of blocks between two steps.
        notes: What a user should hear of, until somebody has told it.
        waited_s: How long the server waited for sites since the last round, by what for.
        diverged: Clients whose sites said that their blocks are not finite.
        noise_seed: Of the noise that the server adds, in gradients of records or in averages. It is
            never written down: sites know the run's seed, and a server that goes on from before
            something was noised draws other noise for it.
        averages: Where averages hide whole clients, what gets the last one to every client.
        is_drawing: Whether sites may draw now, since no step is running.
        sends_sums: Whether sites send sums of what they see in a round, and no activations to
            compare clients by.
        is_closing: Whether sites may send their sums now, since a round ends.
        num_rounds: Rounds so far; sites are told.
    """

    sessions: Sessions
    wire: MemoryWire
    observer: ReferenceObserver | None = None
    averages: LastAverages | None = None

    def __init__(
        self,
        *args: Any,
        batch_sizes: Mapping[int, int],
        timeout_s: float = 60.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.batch_sizes = dict(batch_sizes)
        self.timeout_s = timeout_s
        self.waited_s: dict[str, float] = {}
        self.noise_seed = secrets.randbits(128)
        self.crossings = {
            entry.client_id: Crossings(entry, self.networks, self.example_inputs, self.method)
            for entry in self.plan.clients
        }
        self.is_drawing, self.drawing = False, threading.Lock()
        self.sends_sums, self.is_closing, self.num_rounds = False, False, 0
        self._step: RemoteStep | None = None
        self.diverged: frozenset[int] = frozenset()
        self.blocks = BlockExchange(self)
        self.notes: list[str] = []
        self.make_optimizers()

    def make_clients(self) -> dict[int, Client]:
        """Return none: they live at sites."""
        return {}

    @property
    def tells_losses(self) -> bool:
        """Return whether a site may know the mean loss over all sites' clients."""
        return self.averages is None

    # A step

    def run_step(self, batches: Batches | Iterable[int], step: int) -> StepResult:
        """Let the clients that are named run a step, as far as their sites are there."""
        active = sorted(batches)
        if self.averages is not None:
            active = self.averages.bring(active)
            self.averages.trained |= {*active}
        self.server.begin_step(self.method.rate_factor(step))
        running = self.make_step(step, active)
        self._step = running
        commands = {
            name: {
                "kind": "step",
                "step": step,
                "round": self.num_rounds,
                "clients": clients,
                "observe": [c for c in clients if self._is_observed(c)],
                "in_turn": running.in_turn,
            }
            for name, clients in self.by_site(active).items()
        }
        numbers = self.sessions.post(commands)
        losses = {}
        try:
            for phase in running.phases:
                losses[phase.name] = running.end_phase(self.timeout_s)
                self.count_wait(phase.name, running.waited[-1])
        except BaseException:
            running.abandon()  # as at a signal to end: sites shall hear of it at once
            raise
        self.update_averages(step, ())  # clients' are theirs
        self.commit_step(())
        # Who was late is not waited for again; it is asked once it is there.
        in_time = self.by_site(running.active)
        self.sessions.collect({name: numbers[name] for name in in_time}, self.timeout_s)
        return StepResult(losses, tuple(running.dropped))

    def make_step(self, step: int, active: list[int]) -> RemoteStep:
        """Return what takes what these clients send in a step; engines of other kinds override."""
        return RemoteStep(self, step, active)

    def answer(self, name: str, frame: Frame) -> Reply:
        """Answer what a site asks within a step or a round; threads may call it."""
        kind = frame.header["kind"]
        if kind in ("block", "fetch"):
            return self.blocks.answer(name, frame)
        if kind == "draw":
            return {"kind": "ok"}, answer_draw(self, frame)
        if kind == "statistics":
            take_sums(self, frame)
            return {"kind": "ok"}, {}
        running = self._step
        if running is None or frame.header["step"] != running.step:
            raise DroppedError
        if kind in ("forward", "backward"):
            self.check_own(name, kind, (c for c, _ in read_runs(frame.header["runs"])))
            return running.forward(frame) if kind == "forward" else running.backward(frame)
        if kind == "observe":
            return self._observe(running, frame)
        if kind == "norms":
            return {"kind": "ok"}, running.exchange_norms(frame)
        if kind == "records":
            counts = dict(frame.header["counts"])
            self.check_own(name, kind, counts)
            running.take_counts(counts)
            return {"kind": "ok"}, {}
        losses = read_losses(frame.header["losses"])
        failed = read_failures(frame.header["failed"])
        self.check_own(name, kind, (*losses, *failed))
        phase = frame.header["phase"]
        return running.finish(phase, losses, failed, self.sessions.poll_s), {}

    def check_own(self, name: str, kind: str, client_ids: Iterable[int]) -> None:
        """Refuse what a site sends of clients that are not its own."""
        own = self.sessions.roster[name]
        if foreign := [c for c in client_ids if c not in own]:
            raise FrameError(f"{kind}: client {foreign[0]} is not a client of {name}")

    def open(
        self, frame: Frame, kind: Kind, specs: Mapping[str, TensorSpec], optional: bool = False
    ) -> dict[str, Tensor]:
        """Return the tensors of a frame as they arrive over the wire."""
        return open_frame(frame, self.wire, kind, specs, optional)

    def by_site(self, client_ids: Iterable[int]) -> dict[str, list[int]]:
        """Return these clients by their sites, in the order of the roster."""
        wanted = set(client_ids)
        each = {n: [c for c in own if c in wanted] for n, own in self.sessions.roster.items()}
        return {name: own for name, own in each.items() if own}

    def _is_observed(self, client_id: int) -> bool:
        if self.observer is None or self.sends_sums:
            return False
        return self.observer.wants(client_id)

    def _observe(self, running: RemoteStep, frame: Frame) -> Reply:
        """Take what a client's batch looks like under the reference blocks."""
        client_id, network = frame.header["client"], self.method.observed
        with running.changed:
            if client_id not in running.active or not self._is_observed(client_id):
                raise DroppedError
            assert self.observer is not None and network is not None
            crossings = self.crossings[client_id]
            expected = crossings.up(network, self.batch_sizes[client_id])
            cut = crossings.cuts.head(network)
            names = self.observer.blocks.names_needed(cut)
            kind: Kind = "activations" if cut else "inputs"
            arrived = self.open(frame, kind, {n: expected[n] for n in names})
            self.wire.note(Message(client_id, SERVER, kind, f"{network}_head", arrived))
            if all(bool(tensor.isfinite().all()) for tensor in arrived.values()):
                self.observer.take(client_id, arrived, cut)
        return {"kind": "ok"}, {}

    def count_wait(self, what: str, seconds: float) -> None:
        """Note that the server has waited for sites."""
        self.waited_s[what] = self.waited_s.get(what, 0.0) + seconds

    # A round

    def present_clients(self) -> list[int]:
        """Return the clients of the sites that are there, ascending."""
        present = self.sessions.present()
        return sorted(c for name in present for c in self.sessions.roster[name])

    def observe(self) -> Observation:
        """Return what the server has seen in the round; sites say whose blocks are finite."""
        command = {"kind": "close", "round": self.num_rounds}
        self.is_closing = True
        try:
            commands = dict.fromkeys(self.sessions.present(), command)
            answers = self.sessions.call(commands, self.timeout_s)
        finally:
            self.is_closing = False
        roster = self.sessions.roster
        said = {
            client_id
            for name, answer in answers.items()
            for client_id in _read_ids(answer.get("diverged"))
            if client_id in roster[name]
        }
        self.diverged = frozenset(said & set(self.plan.client_ids))
        return super().observe()

    def gather_sums(self, sums: ActivationStatistics) -> ActivationStatistics:
        """Return what sites have sent when the round was closed."""
        return sums

    def find_diverged(self) -> frozenset[int]:
        """Return the clients whose sites said that their blocks are not finite."""
        return self.diverged

    def mix(self, mixture: Mixture) -> None:
        """Average over the clients whose sites are there, by what these send."""
        mirror = Mirror(self, mixture)
        if mixture.is_secure:
            sums = self._sum_secretly(mirror)
            if sums is None:
                self.server.statistics.reset()
            else:
                self._hand_out(mirror, mirror.mix({}, sums))
            return
        given: dict[BlockRef, State] = {}
        late: set[int] = set()
        while mirror.set_present(self._list_members(late)):
            # Nobody is asked twice: a site shows a state of its blocks once.
            asked = [ref for ref in mirror.list_sent() if ref not in given]
            given |= self.blocks.collect(asked, mixture.moments == "average", "blocks")
            if given.keys() >= {*asked}:
                break
            late |= {ref.client_id for ref in asked if ref not in given}
        else:
            self.notes.append("nothing is averaged in this round: of some cluster nobody is there")
            self.server.statistics.reset()
            return
        self._hand_out(mirror, mirror.mix(given))

    def _list_members(self, late: Collection[int]) -> list[int]:
        """Return the clients that take part in an average, as their sites are there and in time."""
        there = [c for c in self.present_clients() if c not in late]
        return there if self.averages is None else self.averages.bring(there)

    def _sum_secretly(self, mirror: Mirror) -> dict[SumRef, State] | None:
        """Return the means of what the clients that are there add up; None where too few stay."""
        if not mirror.set_present(self.present_clients()):
            return None
        plan = plan_sums(mirror.plan, mirror.mixture, self.method.averaged)
        try:
            return SiteSums(self, mirror.mixture, plan).run()
        except HuscfError as error:
            self.notes.append(f"nothing is averaged in this round: {error}")
            return None

    def _hand_out(self, mirror: Mirror, changed: Mapping[BlockRef, State]) -> None:
        """Let the clients that are there fetch their new blocks, and begin new statistics."""
        mixture, averaged = mirror.mixture, mirror.plan.client_ids
        diverged = {c for c in self.diverged if mixture.weights.get(c) == 0}
        forgetful = averaged if mixture.moments == "reset" else diverged
        taken = self.blocks.hand_out(changed, forgetful, averaged)
        if self.averages is not None:
            self.averages.note_average(taken)
        self.server.statistics.reset()
        self.on_new_structure()

    def apply_plan(self, plan: CutPlan) -> tuple[Move, ...]:
        """Move blocks between the sites that are there and the server, with their moments.

        Clients of other sites keep their cuts. What a client is sent is kept until its site has
        saved it (`forget_owed`): who is lost on the way gets it when it returns.
        """
        given: dict[BlockRef, State] | None = None
        while given is None:
            present = self.present_clients()
            entries = [plan if e.client_id in present else self.plan for e in plan.clients]
            found = (p.by_client[e.client_id] for p, e in zip(entries, plan.clients, strict=True))
            merged = CutPlan(plan.blocks, tuple(found))
            check_plan(self.method, merged, self.networks)
            refs = list_given(self, merged, present)
            collected = self.blocks.collect(refs, True, "moved_blocks")
            given = collected if collected.keys() >= {*refs} else None
        before = self.plan.by_client
        moves, sent = move_at_server(self, merged, present, given)
        self.plan = merged
        self.blocks.owed |= sent
        changed = [e for e in merged.clients if e.cuts != before[e.client_id].cuts]
        self._follow_cuts(changed)
        cuts = {e.client_id: e.cuts.as_list() for e in changed}
        commands = {
            name: {"kind": "move", "cuts": [[c, cuts[c]] for c in own]}
            for name, own in self.by_site(cuts).items()
        }
        self.sessions.call(commands, self.timeout_s)
        return moves

    def _follow_cuts(self, changed: Iterable[ClientPlan]) -> None:
        """Expect what crosses the new cuts of clients."""
        for entry in changed:
            self.crossings[entry.client_id] = Crossings(
                entry, self.networks, self.example_inputs, self.method
            )
        if self.observer is not None:
            self.server.statistics.boundary = None  # the blocks in training are not observed
        self.on_new_structure()

    def let_sites_draw(
        self, command: dict[str, Any], timeout_s: float
    ) -> dict[str, dict[str, Any]]:
        """Give the sites that are there a command in which they draw; return their answers.

        One that is lost on the way is waited for as in a step. Where averages hide clients,
        nothing is drawn for others than the server from what they have trained by themselves.
        """
        names = self.sessions.present()
        if self.averages is not None and command["kind"] != "evaluate":
            unsettled = self.averages.list_unsettled()
            names = [name for name in names if name not in unsettled]
        self.is_drawing = True
        try:
            numbers = self.sessions.post(dict.fromkeys(names, command))
            deadline = time.monotonic() + timeout_s
            while True:
                wait_s = min(self.timeout_s, deadline - time.monotonic())
                answers = self.sessions.collect(numbers, max(wait_s, 0.0))
                left = numbers.keys() - answers.keys()
                if not any(map(self.sessions.is_connected, left)) or wait_s <= 0:
                    return answers
        finally:
            self.is_drawing = False


def _read_ids(values: object) -> list[int]:
    return [v for v in values if type(v) is int] if isinstance(values, list) else []
