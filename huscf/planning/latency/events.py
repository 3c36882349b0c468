"""Seconds of one step of a plan in an event simulation, where nobody waits that need not.

The model `corrected` lets every pass wait for the slowest client of the one before. Here a client
runs its passes one after the other, whatever the others do. The server's compute and the two
directions of its link serve one request at a time, in the order of arrival. A phase that trains
blocks at the server ends when all clients have finished it and the server has stepped; behind any
other a client steps and goes on. A round's end, spread over its steps, is everybody's blocks up,
and then everybody's down.

A transfer takes the client's link for the time that it needs there, and the server's for its share
of that. Source: ours.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from ...split import ClientCuts, CutPlan, RoundTraffic, TracedPass
from ..costs.plan_costs import PlanCosts, list_flops, list_sizes
from ..devices.fleet import Fleet
from ..devices.units import BITS_PER_BYTE, Unit, UnitFigures
from .overheads import count_round_bytes, list_updates
from .stage_tables import Ints
from .ways import orient

#: Who is busy with a task, and for how many seconds; the client, or a part of the server.
Task = tuple[str, float]

_CLIENT = "client"
_PARTS = ("ingress", "compute", "egress")


def simulate_step(costs: PlanCosts, fleet: Fleet, plan: CutPlan, steps_per_round: int = 0) -> float:
    """Return the seconds of one step, with its share of a round's end.

    Args:
        costs: Measured costs, and the phases of a step.
        fleet: The clients and the server.
        plan: Cuts of the same clients.
        steps_per_round: Steps between two federations; 0 leaves the federation out.
    """
    parts = _list_parts(costs, fleet, plan)
    places = {client: part for part in parts for client in part.unit.client_ids}
    order = [places[client] for client in sorted(places)]
    seconds = _simulate_phases(costs, order)
    if steps_per_round:
        for is_up in (True, False):
            moved_s = _serve({part: part.list_round(is_up) for part in parts}, order)
            seconds += max(moved_s) / steps_per_round
    return float(seconds)


@dataclass(frozen=True, eq=False)
class _Part:
    """Clients alike in device, batch size and cuts, and what one of them has to do.

    Args:
        costs: Of the networks.
        figures: Of these clients alone.
        cuts: Theirs.
        num_clients: Of the whole fleet.
    """

    costs: PlanCosts
    figures: UnitFigures
    cuts: ClientCuts
    num_clients: int

    @property
    def unit(self) -> Unit:
        """Return the clients."""
        return self.figures.units[0]

    def options(self, network: str) -> Ints:
        """Return their only option, (1, 2) head and tail blocks."""
        return np.array([[self.cuts.head(network), self.cuts.tail(network)]])

    def at_server(self, network: str) -> range:
        """Return the blocks that they leave to the server."""
        return self.cuts.server_range(network, len(self.costs.blocks[network]))

    def step_s(self, networks: Sequence[str]) -> float:
        """Return the seconds in which a client steps what it holds of some networks."""
        held = 0.0
        for name in networks:
            work, at_server = list_updates(self.costs.blocks[name]), self.at_server(name)
            held += work.sum() - work[at_server].sum()
        return float(held / self.figures.speed_flops_per_s.item())

    def list_pass(self, one: TracedPass) -> list[Task]:
        """Return the tasks of a pass, one behind the other."""
        blocks, figures = self.costs.blocks[one.network], self.figures
        entering = self.costs.input_bytes.get(one.network, 0.0)
        way = orient(one, blocks, entering, self.options(one.network), figures)
        head, last, batch = int(way.head.item()), int(way.last.item()), self.unit.batch_size
        if head == last:
            work = list_flops(blocks, one.kind), list_flops(blocks, "forward"), list_sizes(blocks)
            return [(_CLIENT, float(figures.compute_s(*work).item()))]
        speed, server = figures.speed_flops_per_s.item() / batch, figures.server
        at_server = way.flops[head:last].sum() * batch * self._share(one)
        return [
            (_CLIENT, way.flops[:head].sum() / speed),
            *self._go_up(batch * way.sizes[head], way.half_up_s.item()),
            ("compute", at_server / server.speed_flops_per_s),
            *self._come_down(batch * way.sizes[last], way.half_down_s.item()),
            (_CLIENT, way.flops[last:].sum() / speed),
        ]

    def list_round(self, is_up: bool) -> list[Task]:
        """Return what goes up, or comes down, at a round's end."""
        tasks = []
        for name, blocks in self.costs.blocks.items():
            traffic = self.costs.rounds.get(name, RoundTraffic())
            up, down = count_round_bytes(blocks, self.options(name), traffic)
            num_bytes = (up if is_up else down).item()
            move = self._go_up if is_up else self._come_down
            tasks += move(num_bytes, self.figures.half_trip_s.item() * (num_bytes > 0))
        return tasks

    def _go_up(self, num_bytes: float, delay_s: float) -> list[Task]:
        bits, at_server = BITS_PER_BYTE * num_bytes, self.figures.server.uplink_bits_per_s
        own_s = bits / self.figures.uplink_bits_per_s.item() - bits / at_server
        return [(_CLIENT, own_s + delay_s), ("ingress", bits / at_server)]

    def _come_down(self, num_bytes: float, delay_s: float) -> list[Task]:
        bits, at_server = BITS_PER_BYTE * num_bytes, self.figures.server.downlink_bits_per_s
        own_s = bits / self.figures.downlink_bits_per_s.item() - bits / at_server
        return [("egress", bits / at_server), (_CLIENT, own_s + delay_s)]

    def _share(self, one: TracedPass) -> float:
        """Return the share of a pass's work that the server has for a client.

        Less than all where it draws fewer batches than it has clients and runs; a client's
        request then pays its share of each.
        """
        for each in self.costs.list_passes(one.network):
            if each.kind == one.kind and each.num_drawn is not None:
                return each.num_drawn / (each.count * self.num_clients)
        return 1.0


def _list_parts(costs: PlanCosts, fleet: Fleet, plan: CutPlan) -> list[_Part]:
    groups: dict[tuple, list[int]] = {}
    for client in fleet.clients:
        cuts = plan.by_client[client.client_id].cuts
        groups.setdefault((client.profile, client.batch_size, cuts), []).append(client.client_id)
    return [
        _Part(
            costs,
            UnitFigures((Unit(profile, batch_size, tuple(clients)),), fleet.server),
            cuts,
            len(fleet.clients),
        )
        for (profile, batch_size, cuts), clients in groups.items()
    ]


def _simulate_phases(costs: PlanCosts, order: Sequence[_Part]) -> float:
    """Return when all clients, by the part of each, are through all phases."""
    parts = list(dict.fromkeys(order))
    tasks: dict[_Part, list[Task]] = {part: [] for part in parts}
    start_s: Sequence[float] = [0.0] * len(order)
    for phase in costs.phases:
        for part, own in tasks.items():
            for one in phase.passes:
                own += part.list_pass(one)
        step_s = {part: part.step_s(phase.trains) for part in parts}
        server_s = _count_server_s(costs, parts, phase.trains)
        if server_s:
            end_s = _serve(tasks, order, start_s)
            stepped_s = max(end_s) + server_s
            start_s = [
                max(stepped_s, end + step_s[part]) for end, part in zip(end_s, order, strict=True)
            ]
            tasks = {part: [] for part in parts}
        else:
            for part, own in tasks.items():
                own.append((_CLIENT, step_s[part]))
    return max(_serve(tasks, order, start_s))


def _count_server_s(costs: PlanCosts, parts: Sequence[_Part], networks: Sequence[str]) -> float:
    """Return the seconds in which the server steps each block that it holds once."""
    work = 0.0
    for name in networks:
        held = {block for part in parts for block in part.at_server(name)}
        work += float(list_updates(costs.blocks[name])[sorted(held)].sum())
    return work / parts[0].figures.server.speed_flops_per_s


def _serve(
    tasks: dict[_Part, list[Task]], order: Sequence[_Part], start_s: Sequence[float] = ()
) -> list[float]:
    """Return when each client has done its tasks; the server is free at first.

    Args:
        tasks: Of a client of each part, in their order.
        order: The part of each client.
        start_s: When each begins; 0 by default.
    """
    free = dict.fromkeys(_PARTS, 0.0)
    end_s = [*(start_s or repeat(0.0, len(order)))]
    # Who asks next: when, which client, the number of its task.
    queue = [(begin, client, 0) for client, begin in enumerate(end_s)]
    heapq.heapify(queue)
    while queue:
        ready, client, number = heapq.heappop(queue)
        own = tasks[order[client]]
        if number == len(own):
            end_s[client] = ready
            continue
        who, seconds = own[number]
        # What takes no time, as where nothing is sent, does not wait for its turn.
        if who in free and seconds:
            ready = max(ready, free[who])
            free[who] = ready + seconds
        heapq.heappush(queue, (ready + seconds, client, number + 1))
    return end_s
