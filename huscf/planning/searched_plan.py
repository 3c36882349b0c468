"""A plan source for a training run: searches the plan for the run's clients and networks."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ..errors import PlanError
from ..split import CutPlan, PlanRequest, PlanSource
from .devices.fleet import DevicesFile, Fleet, load_mapping
from .planner import (
    LatencyModelName,
    PlanOptions,
    PlanSubject,
    Precision,
    build_problem,
    read_file_keys,
)
from .results.result import PlanResult
from .search.strategies import Strategy, search_plan


class SearchedPlan(PlanSource):
    """Searches the cuts that make a step fast on the given devices.

    What `huscf plan` takes from the devices file holds here too, except networks, batch_size and
    seed, which are the run's. An argument that is not None replaces the file's; one that is None
    takes it, or where the file has none the default in brackets.

    Args:
        devices: YAML file with profiles, server and assignment, or the name of one that comes with
            huscf (paper/devices), or the same as a mapping; None takes what the sites of
            huscf serve measure.
        latency_model: "corrected", or "paper" for the published figures ("corrected").
        strategy: "uniform", "random", "genetic", "exact", "milp" or "decentralized" ("genetic").
        seed: Seed of the search and of who gets which profile; None takes the run's.
        steps_per_round: Steps between two federations, over which their traffic is spread;
            0 leaves it out (0).
        latency_weight: Weight of a second of a step in what is made small (1).
        bytes_weight: Weight of a byte of all clients' traffic in a step (0).
        energy_weight: Weight of a joule of all clients in a step; needs power_w in all profiles
            (0).
        max_latency_s: Upper limit of a step's seconds (no limit).
        max_bytes_per_step: Upper limit of all clients' bytes in a step (no limit).
        max_energy_j: Upper limit of all clients' joules in a step (no limit).
        max_leakage: Share of the samples' variance, from 0 to 1, that no client's cut may give
            away; needs leakage (no limit).
        leakage_weight: Weight of that share, the mean over clients (0).
        leakage: File of huscf leakage or huscf audit that says what cuts give away (none).
        min_generator_head: Blocks of the generator that every client keeps at its input (1).
        min_discriminator_head: Blocks of the discriminator that every client keeps at its
            input: a floor for privacy (1).
        forbidden_cuts: Cut name (such as generator_head) -> block counts nobody may hold there
            (none).
        common_boundary: Whether one boundary between two blocks of the discriminator must be at
            the server for all clients. Cluster rules that compare what clients send need it;
            false for those that need no features (true).
        precision: What the trainer computes in, "32-true" or "bf16-mixed": set it as you set
            trainer.precision ("32-true").
        time_limit_s: Limit of the solver in strategy milp (60).
    """

    def __init__(
        self,
        devices: str | dict[str, Any] | None = None,
        latency_model: LatencyModelName | None = None,
        strategy: Strategy | None = None,
        seed: int | None = None,
        steps_per_round: int | None = None,
        latency_weight: float | None = None,
        bytes_weight: float | None = None,
        energy_weight: float | None = None,
        max_latency_s: float | None = None,
        max_bytes_per_step: float | None = None,
        max_energy_j: float | None = None,
        max_leakage: float | None = None,
        leakage_weight: float | None = None,
        leakage: str | None = None,
        min_generator_head: int | None = None,
        min_discriminator_head: int | None = None,
        forbidden_cuts: Mapping[str, Sequence[int]] | None = None,
        common_boundary: bool | None = None,
        precision: Precision | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        arguments = dict(locals())
        given = {entry.name: arguments[entry.name] for entry in fields(PlanOptions)}
        self.seed = seed
        self.devices: DevicesFile | None = None
        options = PlanOptions()
        if devices is not None:
            self.devices, options = _read_devices(devices)
        self._options = replace(options, **{k: v for k, v in given.items() if v is not None})
        self.result: PlanResult | None = None
        self.fleet: Fleet | None = None
        self.subject: PlanSubject | None = None

    def make_options(self, run_seed: int) -> PlanOptions:
        """Return the options, with the run's seed where none was given."""
        return replace(self._options, seed=run_seed if self.seed is None else self.seed)

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Search the plan; `result`, `fleet` and `subject` keep what it was made from."""
        if self.devices is None:
            raise PlanError(
                "model.plan: devices is missing: only the sites of huscf serve measure theirs"
            )
        seed = self.make_options(request.seed).seed
        return self.plan_for(request, self.devices.make_fleet(request.batch_sizes, seed))

    def plan_for(self, request: PlanRequest, fleet: Fleet) -> CutPlan:
        """Search the plan for these clients and devices."""
        options = self.make_options(request.seed)
        self.fleet = fleet
        self.subject = PlanSubject.measure(request, options.precision)
        problem = build_problem(self.subject, self.fleet, options)
        self.result = search_plan(problem, options.search_settings)
        return self.result.plan


def _read_devices(devices: str | Mapping[str, Any]) -> tuple[DevicesFile, PlanOptions]:
    values = load_mapping(devices) if isinstance(devices, str) else devices
    try:
        return DevicesFile.from_dict(values), PlanOptions.from_dict(read_file_keys(values))
    except PlanError as error:
        owner = devices if isinstance(devices, str) else "model.plan"
        raise PlanError(f"{owner}: {error}") from error
