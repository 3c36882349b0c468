"""A site's half: its clients' heads and tails, and what it asks the server for in a step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...errors import CheckpointError, HuscfError, check_complete
from ...federation import ReferenceBlocks
from ...methods import Method, Pass, Phase, trace_inputs
from ...models import Network, SampleShape
from ...parties import Client, read_block, write_block
from ...split import ClientCuts, ClientPlan, CutPlan
from ...wire import SERVER, Kind, MemoryWire, Message
from ...wire.frames import Frame
from ..averages import update_averages
from ..base import Batches
from ..crossing import check_plan
from ..local import prepare_batch
from ..mixing import block_topic
from .block_frames import BlockRef, Wanted, fetch_blocks, send_blocks
from .expected import Crossings
from .moves import move_at_site
from .protocol import Ask, Dropped
from .sums import Comparison, OwnSums
from .ways import Ways


class SiteHalf:
    """Holds the clients of one site.

    Args:
        method: What is trained.
        networks: The full networks as they were before training.
        plan: Cuts of this site's clients, and of no others.
        shape: Shape of the samples.
        seeds: Of noise and all else that each client draws.
        batch_sizes: Samples per step by client id.
        make_wire: Makes what changes a client's messages on their way; its noise is drawn from
            the client's seed.
        comparison: What the server may be shown, so that clients can be compared.

    Attributes:
        may_move: Whether the server may have blocks as they are, for other cuts.
    """

    def __init__(
        self,
        method: Method,
        networks: Mapping[str, Network],
        plan: CutPlan,
        shape: SampleShape,
        seeds: Mapping[int, int],
        batch_sizes: Mapping[int, int],
        make_wire: Callable[[], MemoryWire] = MemoryWire,
        comparison: Comparison | None = None,
    ) -> None:
        self.method, self.networks, self.shape = method, dict(networks), shape
        self.seeds, self.batch_sizes = dict(seeds), dict(batch_sizes)
        self._examples = trace_inputs(method, networks, shape)
        observed, self.comparison = method.observed, comparison or Comparison()
        self._reference = observed and ReferenceBlocks(list(networks[observed])[:-2])
        self._sums: OwnSums | None = None
        if self.comparison.shown == "statistics" and isinstance(self._reference, ReferenceBlocks):
            self._sums = OwnSums(method, self._reference, self.comparison, self.seeds)
        self.wires = {client_id: make_wire() for client_id in plan.client_ids}
        for client_id, wire in self.wires.items():
            wire.kinds, wire.run_seed = method.kinds, self.seeds[client_id]
        self._last_step, self._given = -1, set[BlockRef]()
        self.may_move = True
        self._begin(plan)

    def _begin(self, plan: CutPlan) -> None:
        """Hold the clients' blocks as they were before training."""
        self._take_plan(plan)
        averaged = self.method.averaged
        self.clients = {e.client_id: self.make_client(e, averaged) for e in plan.clients}
        for client in self.clients.values():
            client.train()
            client.own_memory()
            client.make_optimizers(self.method)

    # What sites of other kinds override

    def make_client(self, entry: ClientPlan, averaged: tuple[str, ...]) -> Client:
        """Return a client."""
        return Client(entry, self.networks, averaged)

    def begin_step(self, client_ids: Sequence[int]) -> None:
        """Do what there is to do before a step of some clients, or refuse it."""

    def fill_batch(
        self, client_id: int, batch: tuple[Tensor, Tensor], step: int
    ) -> tuple[Tensor, Tensor]:
        """Return a client's batch as its private tensors are made of it."""
        return batch

    def begin_phases(self, client_ids: Sequence[int], step: int, ask: Ask) -> None:
        """Do what there is to do once clients have their batches."""

    def count_rows(self, client_id: int, item: Pass) -> int:
        """Return how many samples a client's pass has."""
        return self.batch_sizes[client_id]

    def end_passes(self, client_id: int, phase: Phase, place: Mapping[str, int], ask: Ask) -> None:
        """Do what there is to do once a client has gone back through a phase's passes."""

    def finish_gradients(self, client_id: int, phase: Phase, step: int) -> None:
        """Change a client's gradients before it steps."""

    def _take_plan(self, plan: CutPlan) -> None:
        check_plan(self.method, plan, self.networks)
        self.plan = plan
        self.crossings = {
            e.client_id: Crossings(e, self.networks, self._examples, self.method)
            for e in plan.clients
        }

    def client(self, client_id: int) -> Client:
        """Return one client."""
        return self.clients[client_id]

    # A step

    def run_step(self, command: Mapping[str, Any], batches: Batches, ask: Ask) -> dict[str, float]:
        """Run a step for the clients that the server names.

        Args:
            command: The server's: step, round, clients, whom it observes, and whether clients
                take turns.
            batches: Of these clients.
            ask: The way to the server.

        Returns:
            The mean losses by phase, over all clients of the run or, where records are private,
            this site's; fewer where the site was dropped.

        Raises:
            HuscfError: Where the server asks for more than it was to be shown, or for a step anew,
                which would show one batch under different noise.
        """
        step = command["step"]
        if step <= self._last_step:
            raise HuscfError(f"the server asks for step {step}, and step {self._last_step} was run")
        self._last_step = step
        self._given.clear()
        if command["observe"] and self.comparison.shown != "reference":
            raise HuscfError(
                "the server asks for activations to compare clients by, and was to compare them "
                f"{self.comparison.explain()}"
            )
        active = [c for c in command["clients"] if c in self.clients]
        self.begin_step(active)
        losses: dict[str, float] = {}
        try:
            for client_id in active:
                self._load(client_id, batches[client_id], step)
                if client_id in command["observe"]:
                    self._show(client_id, batches[client_id][0], step, ask)
                if self._sums is not None:
                    self._sums.add(command["round"], step, client_id, batches[client_id][0])
            self.begin_phases(active, step, ask)
            for number, phase in enumerate(self.method.phases(step)):
                active, losses[phase.name] = self._run_phase(command, number, phase, active, ask)
            for client_id in active:
                self.clients[client_id].remember()
        except Dropped:
            losses, active = {}, []
        finally:
            for client in self.clients.values():
                client.clear_batch()
                client.zero_grad(set_to_none=True)
        update_averages(self.method, [self.clients[c] for c in active], step)
        return losses

    def _load(self, client_id: int, batch: tuple[Tensor, Tensor], step: int) -> None:
        self.clients[client_id].begin_step(self.method.rate_factor(step))
        samples, labels = self.fill_batch(client_id, batch, step)
        seed = self.seeds[client_id]
        private = prepare_batch(self.method, client_id, samples, labels, seed, step)
        self.clients[client_id].load_batch(private, self.shape.num_classes)

    def _show(self, client_id: int, samples: Tensor, step: int, ask: Ask) -> None:
        """Send what a batch looks like under the blocks that never train."""
        assert isinstance(self._reference, ReferenceBlocks) and self.method.observed is not None
        cut = self.clients[client_id].cuts.head(self.method.observed)
        made = self._reference.run(self.method.reference_inputs(samples), 0, cut)
        tensors = {name: made[name] for name in self._reference.names_needed(cut)}
        kind: Kind = "activations" if cut else "inputs"
        topic = f"{self.method.observed}_head"
        sent = self.wires[client_id].depart(Message(client_id, SERVER, kind, topic, tensors))
        ask("observe", {"client": client_id, "step": step}, sent)

    def _run_phase(
        self,
        command: Mapping[str, Any],
        number: int,
        phase: Phase,
        active: list[int],
        ask: Ask,
    ) -> tuple[list[int], float]:
        """Run a phase, and step if the server does; return who takes part further, and the loss."""
        before = {c: [b.clone() for b in self.clients[c].buffers()] for c in active}
        place = {"step": command["step"], "phase": number}
        ways = Ways(self, phase, place, ask)
        committed: list[int] = []
        try:
            for together in [[c] for c in active] if command["in_turn"] else [active]:
                ways.run(together)
            end = _wait_for_commit(place, ways.losses, ways.failed, ask)
            committed = [c for c in end.header["clients"] if c in ways.losses]
        finally:
            for client_id in active:
                if client_id not in committed:
                    self._undo(client_id, before[client_id])
        for client_id in committed:
            self.finish_gradients(client_id, phase, command["step"])
            for network in phase.trains:
                self.clients[client_id].step(network)
        return committed, float(end.header["loss"])

    def _undo(self, client_id: int, before: list[Tensor]) -> None:
        """Leave no trace of a phase that does not count: no gradient, no running statistics."""
        for buffer, old in zip(self.clients[client_id].buffers(), before, strict=True):
            buffer.data.copy_(old)  # graphs hold it, and need not know
        self.clients[client_id].zero_grad(set_to_none=True)

    # A round

    def close(self, command: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
        """Send the round's sums where the run has such; say whose own blocks are not finite."""
        if self._sums is not None:
            self._sums.send(command["round"], self.wires, ask)
        return {"diverged": [c for c, own in self.clients.items() if not own.is_finite()]}

    def give(self, command: Mapping[str, Any], ask: Ask) -> None:
        """Send the blocks that the server asks for.

        Raises:
            HuscfError: Where it asks for one again that has not changed since, which would show it
                under different noise, or for blocks to move in a run that moves none.
        """
        refs = self._read_refs(command)
        with_moments, kind = command["moments"], command["as"]
        if kind == "moved_blocks":
            if not self.may_move:
                raise HuscfError("the server asks for blocks to move, and the run keeps its cuts")
        elif self._given & {*refs}:
            raise HuscfError("the server asks for a block twice between two steps")
        else:
            self._given.update(refs)
        send_blocks(((ref, self._carry(ref, with_moments, kind)) for ref in refs), ask)

    def _carry(self, ref: BlockRef, with_moments: bool, kind: Kind) -> Mapping[str, Tensor]:
        optimizer = None
        if with_moments and ref.holding == "trained":
            optimizer = self.clients[ref.client_id].optimizers.get(ref.network)
        state = read_block(self.find_block(ref), optimizer)
        message = Message(ref.client_id, SERVER, kind, block_topic(ref.network, ref.holding), state)
        return self.wires[ref.client_id].depart(message)

    def take(self, command: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
        """Get blocks that have been averaged, and forget moments where that is asked for.

        Returns:
            That the clients have all of them.
        """
        wanted = [
            Wanted(
                ref,
                self.networks[ref.network],
                ref.holding == "trained",
                self.wires[ref.client_id],
            )
            for ref in self._read_refs(command)
        ]
        for ref, state in fetch_blocks(wanted, "blocks", ask):
            self._given.discard(ref)
            block, optimizer = self.find_block(ref), None
            if ref.holding == "trained":
                optimizer = self.clients[ref.client_id].optimizers.get(ref.network)
            if optimizer is not None and not any(p in optimizer.state for p in block.parameters()):
                optimizer = None  # averages of moments have no count of steps to begin with
            write_block(block, state, optimizer)
        for client_id in self.clients.keys() & set(command["forget"]):
            self.clients[client_id].forget_moments()
        return {"has_taken": True}

    def find_block(self, ref: BlockRef) -> nn.Module:
        """Return a block that the server names.

        Raises:
            HuscfError: Where none of this site's clients holds it.
        """
        client, found = self.clients.get(ref.client_id), None
        known = {"trained": self.networks, "average": self.method.averaged}.get(ref.holding, ())
        if client is not None and ref.network in known:
            found = getattr(client, ref.holding).blocks(ref.network).get(ref.block)
        if found is None:
            raise HuscfError(
                f"the server asks for {ref.holding} block {ref.block} of the {ref.network:.40} of "
                f"client {ref.client_id}, which this site does not hold"
            )
        return found

    def _read_refs(self, command: Mapping[str, Any]) -> list[BlockRef]:
        """Return the blocks that a command names, all of them held here."""
        refs = [BlockRef(*entry) for entry in command["blocks"]]
        for ref in refs:
            self.find_block(ref)
        return refs

    def move(self, cuts: Sequence[Any], ask: Ask) -> None:
        """Let clients go on with new cuts: blocks come from the server, or have gone there.

        Args:
            cuts: Pairs of client and numbers of blocks, as the server says.
            ask: The way to the server.
        """
        entries = read_cuts(cuts, self.plan.networks)
        if foreign := [e for e in entries if e.client_id not in self.clients]:
            raise HuscfError(f"the server moves blocks of client {foreign[0].client_id}")
        new = {e.client_id: e for e in entries}
        plan = CutPlan(self.plan.blocks, tuple(new.get(e.client_id, e) for e in self.plan.clients))
        check_plan(self.method, plan, self.networks)
        move_at_site(self, entries, ask)
        self._take_plan(plan)

    # The half on disk

    def get_state(self) -> dict[str, Any]:
        """Return the clients' tensors, named as in a whole checkpoint, and what else goes on."""
        tensors = {
            f"parties.clients.{client_id}.{name}": tensor
            for client_id, client in self.clients.items()
            for name, tensor in client.state_dict().items()
        }
        optimizers = {str(c): client.get_optimizer_state() for c, client in self.clients.items()}
        cuts = [[e.client_id, e.cuts.as_list()] for e in self.plan.clients]
        wires = {str(c): wire.traffic.state_dict() for c, wire in self.wires.items()}
        state = {
            "state_dict": tensors,
            "optimizers": optimizers,
            "cuts": cuts,
            "wires": wires,
            "remembered": {str(c): dict(client.remembered) for c, client in self.clients.items()},
        }
        return state if self._sums is None else {**state, "sums": self._sums.get_state()}

    def set_state(self, state: Mapping[str, Any], ask: Ask) -> None:
        """Go on from a saved half; where cuts have changed since, get the blocks that moved.

        Raises:
            CheckpointError: Where it is of other clients or networks.
        """
        check_complete(state, ("state_dict", "optimizers", "cuts", "wires"))
        present = self.plan
        saved = CutPlan(present.blocks, tuple(read_cuts(state["cuts"], present.networks)))
        if has_missed := saved != present and saved.client_ids == present.client_ids:
            self._begin(saved)
        own = self.get_state()["state_dict"]
        for name in (*own, *state["state_dict"]):
            shapes = [getattr(s.get(name), "shape", None) for s in (own, state["state_dict"])]
            if shapes[0] != shapes[1]:
                raise CheckpointError(f"the saved half is of other clients or networks: {name}")
        for client_id, client in self.clients.items():
            start = f"parties.clients.{client_id}."
            tensors = {
                name.removeprefix(start): tensor
                for name, tensor in state["state_dict"].items()
                if name.startswith(start)
            }
            client.load_state_dict(tensors)
            client.make_optimizers(self.method)
            client.set_optimizer_state(state["optimizers"].get(str(client_id), {}))
            self.wires[client_id].traffic.load_state_dict(state["wires"][str(client_id)])
            client.remembered = dict(state.get("remembered", {}).get(str(client_id), {}))
        if self._sums is not None and "sums" in state:
            self._sums.set_state(state["sums"])
        if has_missed:
            self.move([[e.client_id, e.cuts.as_list()] for e in present.clients], ask)


def read_cuts(cuts: Sequence[Any], networks: Sequence[str]) -> list[ClientPlan]:
    """Return lines of a plan from pairs of client and numbers of blocks, ascending by client.

    Raises:
        HuscfError: Where they are no such pairs.
    """
    try:
        pairs = sorted((int(client_id), list(own)) for client_id, own in cuts)
        return [ClientPlan(c, ClientCuts.from_list(own, networks)) for c, own in pairs]
    except (TypeError, ValueError) as error:
        if isinstance(error, HuscfError):
            raise
        raise HuscfError(f"malformed cuts: {error!r:.100}") from error


def _wait_for_commit(
    place: Mapping[str, int], losses: Mapping[int, float], failed: Mapping[int, str], ask: Ask
) -> Frame:
    fields = {
        **place,
        "losses": [[client_id, float(loss)] for client_id, loss in losses.items()],
        "failed": [list(pair) for pair in failed.items()],
    }
    while (answer := ask("finish", fields, {})).header["kind"] == "wait":
        pass
    return answer
