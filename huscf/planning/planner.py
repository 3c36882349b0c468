"""From options as they stand in YAML or on the command line to a planning problem."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

from ..errors import PlanError
from ..split import ClientCuts, Placement, PlanRequest
from .costs.leakage import Leakage
from .costs.plan_costs import PlanCosts, measure_plan_costs
from .devices.fleet import ClientDevice, Fleet
from .devices.profiles import read_number, read_whole
from .latency.corrected import CorrectedLatency
from .latency.model import LatencyModel
from .latency.overheads import Move
from .paper.costs import count_paper_blocks, count_paper_costs
from .paper.latency import PaperLatency
from .paper.uncut_latency import PaperUncutLatency, is_uncut
from .problem.building import make_problem
from .problem.constraints import Constraints, Objective
from .problem.plan_problem import PlanProblem
from .search.strategies import SearchSettings, Strategy

LatencyModelName = Literal["corrected", "paper"]
Precision = Literal["32-true", "bf16-mixed"]

_FILE_KEYS = ("profiles", "server", "assignment", "networks", "batch_size")


@dataclass(frozen=True)
class PlanOptions:
    """All that a user may choose about the planning, beside the devices.

    Args:
        latency_model: "corrected", or "paper" for the published figures.
        strategy: "uniform", "random", "genetic", "exact", "milp" or "decentralized".
        seed: Seed of the search and of who gets which profile.
        steps_per_round: Steps between two federations, over which their traffic is spread;
            0 leaves it out.
        latency_weight: Weight of a second of a step in what is made small.
        bytes_weight: Weight of a byte of all clients' traffic in a step.
        energy_weight: Weight of a joule of all clients in a step; needs power_w in all profiles.
        max_latency_s: Upper limit of a step's seconds, or None.
        max_bytes_per_step: Upper limit of all clients' bytes in a step, or None.
        max_energy_j: Upper limit of all clients' joules in a step, or None.
        max_leakage: Share of the samples' variance, from 0 to 1, that no client's cut may give
            away, or None; needs leakage.
        leakage_weight: Weight of that share, the mean over clients, in what is made small.
        leakage: File of `huscf leakage` or `huscf audit` that says what cuts give away, or None.
        min_generator_head: Blocks of the generator that every client keeps at its input.
        min_discriminator_head: Blocks of the discriminator that every client keeps at its
            input: a floor for privacy.
        forbidden_cuts: Cut name (such as generator_head) -> block counts nobody may hold there.
        common_boundary: Whether one boundary between two blocks of the discriminator must be at
            the server for all clients. Cluster rules that compare what clients send need it;
            false for those that need no features.
        precision: What blocks compute in, and so the size of what crosses a cut: "32-true" or
            "bf16-mixed".
        time_limit_s: Limit of the solver in strategy milp.
    """

    latency_model: LatencyModelName = "corrected"
    strategy: Strategy = "genetic"
    seed: int = 0
    steps_per_round: int = 0
    latency_weight: float = 1.0
    bytes_weight: float = 0.0
    energy_weight: float = 0.0
    max_latency_s: float | None = None
    max_bytes_per_step: float | None = None
    max_energy_j: float | None = None
    max_leakage: float | None = None
    leakage_weight: float = 0.0
    leakage: str | None = None
    min_generator_head: int = 1
    min_discriminator_head: int = 1
    forbidden_cuts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    common_boundary: bool = True
    precision: Precision = "32-true"
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        for name, kind in (("latency_model", LatencyModelName), ("precision", Precision)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise PlanError(f"{name} is {value!r}; known: {', '.join(get_args(kind))}")
        for name in ("steps_per_round", "seed"):
            if (value := getattr(self, name)) < 0:
                raise PlanError(f"{name} is {value}, must be >= 0")
        # Built once here, so that a bad value is refused before anything is measured.
        _ = self.constraints, self.objective, self.search_settings, self.measured_leakage

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlanOptions":
        """Read the options among the keys of a devices file; those that it lacks are the defaults.

        Raises:
            PlanError: Naming the option at fault.
        """
        return cls(**{e.name: _read_option(values, e) for e in fields(cls) if e.name in values})

    @property
    def constraints(self) -> Constraints:
        """Return the hard limits."""
        heads = {name: getattr(self, f"min_{name}_head") for name in ("generator", "discriminator")}
        return Constraints(heads, **_pick(self, Constraints))

    @property
    def objective(self) -> Objective:
        """Return what is to be made small."""
        return Objective(**_pick(self, Objective))

    @cached_property
    def measured_leakage(self) -> Leakage | None:
        """Return what cuts give away, where a file says it."""
        return None if self.leakage is None else Leakage.load(self.leakage)

    @property
    def search_settings(self) -> SearchSettings:
        """Return how to search."""
        return SearchSettings(self.strategy, self.seed, time_limit_s=self.time_limit_s)


@dataclass(frozen=True)
class PlanSubject:
    """The networks that are planned for, with their measured costs.

    Args:
        request: The networks, and what enters them.
        costs: Measured costs, and the passes of a step.
    """

    request: PlanRequest
    costs: PlanCosts

    @classmethod
    def measure(cls, request: PlanRequest, precision: Precision = "32-true") -> "PlanSubject":
        """Measure a request's networks at its largest batch size, computing in this precision."""
        return cls(request, measure_plan_costs(request, precision == "bf16-mixed"))


def read_file_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a devices file that have a value; one without has its default.

    Raises:
        PlanError: Naming a key that is not known.
    """
    known = {*_FILE_KEYS, *(entry.name for entry in fields(PlanOptions))}
    for key in values:
        if key not in known:
            raise PlanError(f"unknown key {key}; known: {', '.join(sorted(known))}")
    return {key: value for key, value in values.items() if value is not None}


def build_problem(
    subject: PlanSubject, fleet: Fleet, options: PlanOptions, move: Move | None = None
) -> PlanProblem:
    """Build the planning problem that the options describe.

    Args:
        subject: The networks.
        fleet: The clients and the server.
        options: The choices.
        move: Count the cost of leaving a running plan (latency_model corrected only); clients
            with different running cuts are then planned apart.

    Raises:
        PlanError: Naming the option or profile at fault.
    """

    def get_running_cuts(client: ClientDevice) -> ClientCuts | None:
        entry = None if move is None else move.running.by_client.get(client.client_id)
        return None if entry is None else entry.cuts

    return make_problem(
        fleet,
        replace(subject.costs, leakage=options.measured_leakage),
        _make_model(subject, options, move),
        options.constraints,
        options.objective,
        get_running_cuts,
    )


def _make_model(subject: PlanSubject, options: PlanOptions, move: Move | None) -> LatencyModel:
    if options.latency_model == "corrected":
        return CorrectedLatency(subject.costs, options.steps_per_round, move)
    if move is not None:
        raise PlanError("latency_model paper: cannot count the cost of moving; use corrected")
    if options.steps_per_round:
        raise PlanError("latency_model paper: knows no steps_per_round; use corrected or 0")
    if options.precision != "32-true":
        raise PlanError("latency_model paper: knows 32-true only; use corrected")
    placements = subject.request.placements
    if placements and all(map(is_uncut, placements.values())):
        return PaperUncutLatency(count_paper_blocks(subject.request), subject.costs)
    for network, allowed in placements.items():
        if allowed != Placement():
            raise PlanError(
                f"latency_model paper: knows networks cut in three or not at all, and this method "
                f"places the {network} otherwise; use corrected"
            )
    return PaperLatency(count_paper_costs(subject.request))


def _read_option(values: Mapping[str, Any], entry: Field[Any]) -> Any:
    value = values[entry.name]
    if entry.type is int:
        return read_whole(values, entry.name, "plan")
    if entry.type is bool and not isinstance(value, bool):
        raise PlanError(f"plan: {entry.name} is {value!r}, must be true or false")
    if entry.type in (float, float | None):
        return read_number(values, entry.name, "plan", can_be_zero=True)
    if entry.name == "leakage" and not isinstance(value, str):
        raise PlanError(f"plan: leakage is {value!r}, must be the name of a file")
    if entry.name == "forbidden_cuts" and not (
        isinstance(value, Mapping) and all(isinstance(counts, list) for counts in value.values())
    ):
        raise PlanError("forbidden_cuts: must map names of cuts to lists of block counts")
    return value


def _pick(options: PlanOptions, kind: type) -> dict[str, Any]:
    values = asdict(options)
    return {entry.name: values[entry.name] for entry in fields(kind) if entry.name in values}
