"""Where a run's cut plan comes from: uniform, per profile, written out, or saved earlier."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import PlanError
from ..models import Carry, Network, SampleShape
from .cuts import ClientCuts, ClientPlan, CutPlan, Placement

PassKind = Literal["forward", "backward", "input_backward"]


@dataclass(frozen=True)
class TracedPass:
    """One run through a network, forward or back, as far as its cost goes.

    Args:
        network: Through which network.
        kind: "forward"; "backward" for the gradients of all parameters; "input_backward" for the
            gradient of the input, without parameters.
        is_observed: Whether the server compares clients by its activations.
        is_drawn: Whether the server draws what enters, so that nothing goes up before it, and no
            gradient comes down after it.
    """

    network: str
    kind: PassKind
    is_observed: bool = False
    is_drawn: bool = False


@dataclass(frozen=True)
class TracedPhase:
    """What every client runs before the networks that a phase trains are updated.

    Args:
        trains: These networks.
        passes: In the order in which a client runs them.
    """

    trains: tuple[str, ...]
    passes: tuple[TracedPass, ...]


@dataclass(frozen=True)
class RoundTraffic:
    """What a round's end sends of one network of one client.

    Args:
        goes_up: Whether the blocks that the client holds go up.
        comes_down: Whether such blocks come down.
        other_down_bytes: Of what else comes down.
    """

    goes_up: bool = True
    comes_down: bool = True
    other_down_bytes: float = 0.0


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for.

    Args:
        networks: The full networks by name, in the method's order.
        shape: Shape of the samples.
        inputs: What every network needs from outside, a batch of two.
        batch_sizes: Samples per step of every client, by client id.
        seed: Seed of any random choice.
        phases: What a step runs, as most steps of a long run do.
        placements: Where the blocks of every network may lie.
        num_drawn: Different batches that the server draws in a step; None is one a client.
        rounds: What a round's end sends of every network; of one that is missing, its blocks up
            and down.
    """

    networks: Mapping[str, Network]
    shape: SampleShape
    inputs: Mapping[str, Carry]
    batch_sizes: Mapping[int, int]
    seed: int = 0
    phases: Sequence[TracedPhase] = ()
    placements: Mapping[str, Placement] = field(default_factory=dict)
    num_drawn: int | None = None
    rounds: Mapping[str, RoundTraffic] = field(default_factory=dict)

    @property
    def client_ids(self) -> list[int]:
        """Return all client ids, ascending."""
        return sorted(self.batch_sizes)


class PlanSource(ABC):
    """Makes the cut plan of a run; subclass it for another rule."""

    @abstractmethod
    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Return a plan for exactly the requested clients and networks.

        Raises:
            PlanError: Where no valid plan can be made.
        """


class UniformPlan(PlanSource):
    """The same cuts for every client.

    Args:
        cuts: Blocks held of each network, head and tail in turn: [generator_head,
            generator_tail, discriminator_head, discriminator_tail] of a GAN. None holds the
            fewest that the method allows.
    """

    def __init__(self, cuts: Sequence[int] | None = None) -> None:
        self.cuts = cuts

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Return a plan with these cuts for everybody."""
        counts = self.cuts
        if counts is None:
            least = [
                request.placements.get(name, Placement()).smallest(len(network))
                for name, network in request.networks.items()
            ]
            counts = [count for ends in least for count in ends]
        cuts = ClientCuts.from_list(counts, list(request.networks))
        return _assemble(request, {client: ("", cuts) for client in request.client_ids})


class ProfilePlan(PlanSource):
    """One set of cuts per device profile; clients take the profiles in turn.

    Args:
        profiles: Profile name -> blocks held [generator_head, generator_tail,
            discriminator_head, discriminator_tail], or head and tail of whatever networks the
            method has. Client k has profile k modulo their number.
        assignment: Client id -> profile name, for clients that shall not take the next in turn.
    """

    def __init__(
        self,
        profiles: Mapping[str, Sequence[int]],
        assignment: Mapping[int, str] | None = None,
    ) -> None:
        if not profiles:
            raise PlanError("profiles: name at least one")
        self.profiles = dict(profiles)
        self.assignment = dict(assignment or {})
        for client, name in self.assignment.items():
            if name not in self.profiles:
                known = ", ".join(self.profiles)
                raise PlanError(f"assignment: client {client} has profile {name}; known: {known}")

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Return a plan in which each client has the cuts of its profile."""
        unknown = sorted(self.assignment.keys() - set(request.client_ids))
        if unknown:
            raise PlanError(
                f"assignment: not in the run: clients {unknown}; it has {request.client_ids}"
            )
        names, networks = list(self.profiles), list(request.networks)
        cuts = {
            name: ClientCuts.from_list(counts, networks, f"profile {name}")
            for name, counts in self.profiles.items()
        }
        chosen = {}
        for position, client in enumerate(request.client_ids):
            name = self.assignment.get(client, names[position % len(names)])
            chosen[client] = (name, cuts[name])
        return _assemble(request, chosen)


class ExplicitPlan(PlanSource):
    """Every client's cuts, written out.

    Args:
        clients: Client id -> blocks held, as in UniformPlan; must name exactly the run's
            clients.
    """

    def __init__(self, clients: Mapping[int, Sequence[int]]) -> None:
        self.clients = dict(clients)

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Return the plan as written."""
        networks = list(request.networks)
        cuts = {
            client: ("", ClientCuts.from_list(counts, networks, f"client {client}"))
            for client, counts in self.clients.items()
        }
        return _assemble(request, cuts)


class SavedPlan(PlanSource):
    """A plan that an earlier run or `huscf plan` saved as YAML.

    Args:
        path: The YAML file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Read the plan and check that it is for these networks and clients."""
        plan = CutPlan.load(self.path)
        check_plan_fits(plan, request, owner=str(self.path))
        return plan


def check_plan_fits(plan: CutPlan, request: PlanRequest, owner: str) -> None:
    """Raise a PlanError that names the owner unless the plan is for these networks and clients."""
    wanted = _count_blocks(request)
    if plan.blocks != wanted:
        raise PlanError(
            f"{owner}: the plan is for {_name(plan.blocks)}, these networks are {_name(wanted)}"
        )
    _check_clients(plan.client_ids, request, owner)


def _assemble(request: PlanRequest, chosen: Mapping[int, tuple[str, ClientCuts]]) -> CutPlan:
    _check_clients(sorted(chosen), request, owner="plan")
    clients = tuple(ClientPlan(c, cuts, name) for c, (name, cuts) in sorted(chosen.items()))
    return CutPlan(_count_blocks(request), clients)


def _count_blocks(request: PlanRequest) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(network)) for name, network in request.networks.items())


def _name(blocks: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"a {name} of {count} blocks" for name, count in blocks)


def _check_clients(planned: Sequence[int], request: PlanRequest, owner: str) -> None:
    missing = sorted(set(request.client_ids) - set(planned))
    unknown = sorted(set(planned) - set(request.client_ids))
    if missing or unknown:
        raise PlanError(
            f"{owner}: the run has clients {request.client_ids}; "
            f"without cuts: {missing}, not in the run: {unknown}"
        )
