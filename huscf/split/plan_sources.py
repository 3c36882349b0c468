"""Where a run's cut plan comes from: uniform, per profile, written out, or saved earlier."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import PlanError
from ..models import Network, SampleShape
from .cuts import ClientCuts, ClientPlan, CutPlan


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for.

    Args:
        generator: The full generator.
        discriminator: The full discriminator.
        shape: Shape of the samples.
        latent_dim: Length of the noise vector.
        batch_sizes: Samples per step of every client, by client id.
        seed: Seed of any random choice.
        discriminator_batches: Batches that the discriminator is trained on in a step.
    """

    generator: Network
    discriminator: Network
    shape: SampleShape
    latent_dim: int
    batch_sizes: Mapping[int, int]
    seed: int = 0
    discriminator_batches: int = 2

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
        cuts: Blocks held: [generator_head, generator_tail, discriminator_head,
            discriminator_tail], each at least 1.
    """

    def __init__(self, cuts: Sequence[int] = (1, 1, 1, 1)) -> None:
        self.cuts = ClientCuts.from_list(cuts)

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Return a plan with these cuts for everybody."""
        return _assemble(request, {client: ("", self.cuts) for client in request.client_ids})


class ProfilePlan(PlanSource):
    """One set of cuts per device profile; clients take the profiles in turn.

    Args:
        profiles: Profile name -> blocks held [generator_head, generator_tail,
            discriminator_head, discriminator_tail]. Client k has profile k modulo their number.
        assignment: Client id -> profile name, for clients that shall not take the next in turn.
    """

    def __init__(
        self,
        profiles: Mapping[str, Sequence[int]],
        assignment: Mapping[int, str] | None = None,
    ) -> None:
        if not profiles:
            raise PlanError("profiles: name at least one")
        self.profiles = {
            name: ClientCuts.from_list(cuts, f"profile {name}") for name, cuts in profiles.items()
        }
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
        names = list(self.profiles)
        chosen = {}
        for position, client in enumerate(request.client_ids):
            name = self.assignment.get(client, names[position % len(names)])
            chosen[client] = (name, self.profiles[name])
        return _assemble(request, chosen)


class ExplicitPlan(PlanSource):
    """Every client's cuts, written out.

    Args:
        clients: Client id -> blocks held [generator_head, generator_tail,
            discriminator_head, discriminator_tail]; must name exactly the run's clients.
    """

    def __init__(self, clients: Mapping[int, Sequence[int]]) -> None:
        self.clients = {
            client: ClientCuts.from_list(cuts, f"client {client}")
            for client, cuts in clients.items()
        }

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Return the plan as written."""
        return _assemble(request, {client: ("", cuts) for client, cuts in self.clients.items()})


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
    wanted = (len(request.generator), len(request.discriminator))
    if (plan.generator_blocks, plan.discriminator_blocks) != wanted:
        raise PlanError(
            f"{owner}: the plan is for networks of {plan.generator_blocks} and "
            f"{plan.discriminator_blocks} blocks, these have {wanted[0]} and {wanted[1]}"
        )
    _check_clients(plan.client_ids, request, owner)


def _assemble(request: PlanRequest, chosen: Mapping[int, tuple[str, ClientCuts]]) -> CutPlan:
    _check_clients(sorted(chosen), request, owner="plan")
    clients = tuple(ClientPlan(c, cuts, name) for c, (name, cuts) in sorted(chosen.items()))
    return CutPlan(len(request.generator), len(request.discriminator), clients)


def _check_clients(planned: Sequence[int], request: PlanRequest, owner: str) -> None:
    missing = sorted(set(request.client_ids) - set(planned))
    unknown = sorted(set(planned) - set(request.client_ids))
    if missing or unknown:
        raise PlanError(
            f"{owner}: the run has clients {request.client_ids}; "
            f"without cuts: {missing}, not in the run: {unknown}"
        )
