"""A plan source for a training run: searches the plan for the run's clients and networks."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..split import CutPlan, PlanRequest, PlanSource
from .fleet import DevicesFile, Fleet
from .planner import LatencyModelName, PlanOptions, PlanSubject, build_problem
from .result import PlanResult
from .search import Strategy, search_plan


class SearchedPlan(PlanSource):
    """Searches the cuts that make a step fast on the given devices.

    Args:
        devices: YAML file with profiles, server and assignment, or the same as a mapping.
        latency_model: "corrected", or "paper" for the published figures.
        strategy: "uniform", "random", "genetic", "exact", "milp" or "decentralized".
        seed: Seed of the search and of who gets which profile; None takes the run's.
        steps_per_round: Steps between two federations, over which their traffic is spread;
            0 leaves it out.
        latency_weight: Weight of a second of a step in what is made small.
        bytes_weight: Weight of a byte of all clients' traffic in a step.
        energy_weight: Weight of a joule of all clients in a step; needs power_w in all profiles.
        max_latency_s: Upper limit of a step's seconds, or None.
        max_bytes_per_step: Upper limit of all clients' bytes in a step, or None.
        max_energy_j: Upper limit of all clients' joules in a step, or None.
        min_generator_head: Blocks of the generator that every client keeps at its input.
        min_discriminator_head: Blocks of the discriminator that every client keeps at its
            input: a floor for privacy.
        forbidden_cuts: Cut name (such as generator_head) -> block counts nobody may hold there.
        time_limit_s: Limit of the solver in strategy milp.
    """

    def __init__(
        self,
        devices: str | dict[str, Any],
        latency_model: LatencyModelName = "corrected",
        strategy: Strategy = "genetic",
        seed: int | None = None,
        steps_per_round: int = 0,
        latency_weight: float = 1.0,
        bytes_weight: float = 0.0,
        energy_weight: float = 0.0,
        max_latency_s: float | None = None,
        max_bytes_per_step: float | None = None,
        max_energy_j: float | None = None,
        min_generator_head: int = 1,
        min_discriminator_head: int = 1,
        forbidden_cuts: Mapping[str, Sequence[int]] | None = None,
        time_limit_s: float = 60.0,
    ) -> None:
        if isinstance(devices, str):
            self.devices = DevicesFile.load(devices)
        else:
            self.devices = DevicesFile.from_dict(devices)
        self.seed = seed
        self._options: dict[str, Any] = {
            "latency_model": latency_model,
            "strategy": strategy,
            "steps_per_round": steps_per_round,
            "latency_weight": latency_weight,
            "bytes_weight": bytes_weight,
            "energy_weight": energy_weight,
            "max_latency_s": max_latency_s,
            "max_bytes_per_step": max_bytes_per_step,
            "max_energy_j": max_energy_j,
            "min_generator_head": min_generator_head,
            "min_discriminator_head": min_discriminator_head,
            "forbidden_cuts": forbidden_cuts or {},
            "time_limit_s": time_limit_s,
        }
        self.make_options(0)
        self.result: PlanResult | None = None
        self.fleet: Fleet | None = None
        self.subject: PlanSubject | None = None

    def make_options(self, run_seed: int) -> PlanOptions:
        """Return the options, with the run's seed where none was given."""
        seed = run_seed if self.seed is None else self.seed
        return PlanOptions(seed=seed, **self._options)

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Search the plan; `result`, `fleet` and `subject` keep what it was made from."""
        options = self.make_options(request.seed)
        self.fleet = self.devices.make_fleet(request.batch_sizes, options.seed)
        self.subject = PlanSubject.measure(
            (request.generator, request.discriminator),
            request.shape,
            request.latent_dim,
            max(request.batch_sizes.values()),
            request.discriminator_batches,
        )
        problem = build_problem(self.subject, self.fleet, options)
        self.result = search_plan(problem, options.search_settings)
        return self.result.plan
