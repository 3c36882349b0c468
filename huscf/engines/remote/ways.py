"""Clients of a site on their ways through a phase: their own parts, and the server's by asking."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ...errors import NonFiniteError
from ...methods import Direction, Pass, Phase
from ...wire import SERVER, Kind, Message
from .expected import Specs
from .parts import join_parts, open_parts, split_parts
from .protocol import Ask, Dropped

if TYPE_CHECKING:
    from .site import SiteHalf

#: A client's run of a pass, and what crosses in it.
Run = tuple[int, Pass]
Crossed = dict[str, Tensor]


class Ways:
    """Leads clients through a phase, as the serial engine does, for several side by side.

    Args:
        half: The site's, which has the clients.
        phase: The phase.
        place: Step and number of the phase, for the server.
        ask: The way to the server.

    Attributes:
        losses: Of clients that have run the whole phase.
        failed: What was not finite, by client.
    """

    def __init__(self, half: "SiteHalf", phase: Phase, place: Mapping[str, int], ask: Ask) -> None:
        self.half, self.phase, self.place, self.ask = half, phase, place, ask
        self.losses: dict[int, float] = {}
        self.failed: dict[int, str] = {}

    def run(self, client_ids: Iterable[int]) -> None:
        """Run all passes for some clients.

        What the server has to do is asked for all of them at once; who fails or is dropped is left
        out of what follows.
        """
        self._losses = dict.fromkeys(client_ids, 0.0)
        for direction, items in self.phase.exchanges():
            runs = [(client_id, item) for client_id in self._losses for item in items]
            if direction == "forward":
                self._go_forward(runs)
            else:
                self._go_back(runs)
        for client_id in list(self._losses):
            self._end(client_id)
        self.losses |= self._losses

    def _go_forward(self, runs: Sequence[Run]) -> None:
        clients = self.half.clients
        new = [(c, item) for c, item in runs if item.name not in clients[c].outputs]
        arrived = self._exchange("forward", new, lambda c, item: clients[c].run_head(item))
        for client_id, item in self._remaining(runs):
            client = clients[client_id]
            if item.name not in client.outputs:
                client.run_tail(item, arrived[client_id, item.name])
            client.learn(item, client.outputs[item.name])
            if item.loss is not None:
                self._add_loss(client_id, item)

    def _go_back(self, runs: Sequence[Run]) -> None:
        clients, phase = self.half.clients, self.phase
        arrived = self._exchange("backward", runs, lambda c, i: clients[c].go_back_tail(i, phase))
        for client_id, item in self._remaining(runs):
            clients[client_id].go_back_head(item, phase, arrived[client_id, item.name])

    def _add_loss(self, client_id: int, item: Pass) -> None:
        try:
            self._losses[client_id] += self.half.clients[client_id].measure_loss(item, self.phase)
        except NonFiniteError as error:
            self._fail(client_id, error)

    def _end(self, client_id: int) -> None:
        try:
            self.half.end_passes(client_id, self.phase, self.place, self.ask)
        except NonFiniteError as error:
            self._fail(client_id, error)
        except Dropped:
            self._leave([client_id])

    def _fail(self, client_id: int, error: NonFiniteError) -> None:
        self.failed[client_id] = str(error).partition(": ")[2]
        del self._losses[client_id]

    def _remaining(self, runs: Iterable[Run]) -> Iterator[Run]:
        """Yield the runs of clients that are still on their way."""
        return (run for run in runs if run[0] in self._losses)

    def _exchange(
        self, direction: Direction, runs: Iterable[Run], make: Callable[[int, Pass], Crossed]
    ) -> dict[tuple[int, str], Crossed]:
        """Send what crosses, in as few frames as hold it; return what comes back, by run."""
        made = [(run, make(*run)) for run in runs]
        arrived = {(c, item.name): tensors for (c, item), tensors in made if not tensors}
        crossing = (entry for entry in made if entry[1])
        for group in split_parts(crossing, partial(self._measure, direction)):
            arrived |= self._ask(direction, group)
        return arrived

    def _measure(self, direction: Direction, entry: tuple[Run, Crossed]) -> int:
        """Return the bytes of what crosses, or of its answer where that is larger."""
        run, tensors = entry
        back = sum(spec.num_bytes for spec in self._expect(direction, run).values())
        return max(back, sum(tensor.nbytes for tensor in tensors.values()))

    def _ask(
        self, direction: Direction, made: Sequence[tuple[Run, Crossed]]
    ) -> dict[tuple[int, str], Crossed]:
        """Send one frame and return its answer; whoever is dropped is left out from then on."""
        runs = [run for run, _ in made]
        kind: Kind = "activations" if direction == "forward" else "gradients"
        wires = [self.half.wires[client_id] for client_id, _ in runs]
        names = [self._name(run, kind, is_up=True) for run in runs]
        sent = [
            wire.depart(Message(run[0], SERVER, up, topic, tensors))
            for wire, (topic, up), (run, tensors) in zip(wires, names, made, strict=True)
        ]
        fields = {**self.place, "runs": [[c, item.name] for c, item in runs]}
        try:
            answer = self.ask(direction, fields, join_parts(sent))
        except Dropped:
            self._leave(c for c, _ in runs)
            return {}
        self._leave(dropped := set(answer.header["dropped"]))
        kinds = [self._name(run, kind, is_up=False)[1] for run in runs]
        expected = [
            (down, {} if run[0] in dropped else self._expect(direction, run))
            for down, run in zip(kinds, runs, strict=True)
        ]
        parts = open_parts(answer, wires, expected, optional=direction == "backward")
        return {(c, item.name): part for (c, item), part in zip(runs, parts, strict=True)}

    def _leave(self, client_ids: Iterable[int]) -> None:
        for client_id in client_ids:
            self._losses.pop(client_id, None)

    def _name(self, run: Run, kind: Kind, is_up: bool) -> tuple[str, Kind]:
        client_id, item = run
        return self.half.crossings[client_id].name(item.network, kind, is_up)

    def _expect(self, direction: Direction, run: Run) -> Specs:
        client_id, item = run
        crossings, size = self.half.crossings[client_id], self.half.count_rows(client_id, item)
        is_back = direction == "backward"
        return (crossings.gradients_down if is_back else crossings.down)(item.network, size)
