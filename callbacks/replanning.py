"""Checks the cuts against the devices as they are, and changes them when that is worthwhile."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ..engines import Move
from ..errors import HuscfError, PlanError, check_number
from ..planning import (
    DriftSchedule,
    Fleet,
    ReplanDecision,
    Replanner,
    SearchedPlan,
    measure_latency,
)
from ..split import CutPlan
from ..training import FederatedRun, RoundResult, SplitModule, decide_first
from .base import RoundCallback
from .run_folder import RunFolder


class Replanning(RoundCallback):
    """After a round's federation: log the plan's latency, and move blocks if devices drifted.

    Works with model.plan huscf.planning.SearchedPlan, whose devices and options it uses; with
    other plans there is nothing to log, every_n_rounds must be 0 and drift None.

    Args:
        every_n_rounds: How often the plan is reconsidered; 0 never.
        hysteresis: Share of the latency that a new plan must save, moving included; 0 takes any
            gain.
        drift: YAML file of events that change devices during the run (a simulation), or None.
    """

    def __init__(
        self, every_n_rounds: int = 0, hysteresis: float = 0.05, drift: str | None = None
    ) -> None:
        if every_n_rounds < 0:
            raise HuscfError(f"replanning.every_n_rounds is {every_n_rounds}, must be >= 0")
        self.every_n_rounds = every_n_rounds
        check_number("replanning.hysteresis", hysteresis)
        self.hysteresis = hysteresis
        self.drift = DriftSchedule(()) if drift is None else DriftSchedule.load(drift)
        self.previous: list[CutPlan] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what the first re-planning, rounds later, would trip over."""
        assert isinstance(pl_module, SplitModule)
        source = pl_module.plan_source
        if isinstance(source, SearchedPlan):
            options = source.make_options(pl_module.seed)
            if self.every_n_rounds:
                Replanner(options, 1, self.hysteresis)
            if source.fleet is not None:
                self.drift.check(source.fleet)
            if options.latency_model == "corrected" and options.precision != trainer.precision:
                rank_zero_warn(
                    f"the plan is for precision {options.precision}, the trainer's is "
                    f"{trainer.precision}: its bytes and seconds are off; set "
                    "model.plan.init_args.precision to it"
                )
        elif self.every_n_rounds or self.drift.events:
            name = "every_n_rounds" if self.every_n_rounds else "drift"
            raise HuscfError(
                f"replanning.{name}: only a searched plan knows devices and can be re-planned; set "
                "model.plan to huscf.planning.SearchedPlan"
            )

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Decide, move blocks, report the cuts' latency."""
        source = module.plan_source
        if not isinstance(source, SearchedPlan):
            return
        assert source.fleet is not None and source.subject is not None
        fleet = self.drift.apply(result.number, source.fleet)
        moves: tuple[Move, ...] = ()
        if self.should_replan(result.number):
            steps = max(1, trainer.global_step * self.every_n_rounds // result.number)

            def decide() -> ReplanDecision | str:
                try:
                    return self.decide(module, source, fleet, result, steps)
                except PlanError as error:
                    # As where a device has become too small for any cut.
                    return f"round {result.number}: cuts kept: {error}"

            decision = decide_first(trainer, decide)
            if isinstance(decision, str):
                print(decision)
            else:
                moves = self.apply(module, decision, _find_run_folder(trainer), print)
        options = source.make_options(module.seed)
        latency = measure_latency(module.plan, source.subject, fleet, options)
        result.figures["plan/latency_s"] = latency
        result.figures["plan/moved_mbytes"] = _sum_bytes(moves) / 1e6

    def should_replan(self, num_rounds: int) -> bool:
        """Return whether the plan is reconsidered after this many rounds."""
        return self.every_n_rounds > 0 and num_rounds % self.every_n_rounds == 0

    def decide(
        self,
        module: FederatedRun,
        source: SearchedPlan,
        fleet: Fleet,
        result: RoundResult,
        steps: int,
    ) -> ReplanDecision:
        """Compare the running plan with what the present devices allow."""
        assert source.subject is not None
        options = source.make_options(module.seed)
        if result.compares_clients:
            options = replace(options, common_boundary=True)
        keeps_moments = result.mixture.moments != "reset"
        replanner = Replanner(options, steps, self.hysteresis, keeps_moments)
        return replanner.decide(module.engine.plan, source.subject, fleet, tuple(self.previous))

    def state_dict(self) -> dict[str, Any]:
        """Return earlier plans, from which the next search starts."""
        return {"previous": [plan.to_dict() for plan in self.previous]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with earlier plans."""
        self.previous = [CutPlan.from_dict(values) for values in state_dict["previous"]]

    def apply(
        self,
        module: FederatedRun,
        decision: ReplanDecision,
        folder: Path | None,
        say: Callable[[str], None],
    ) -> tuple[Move, ...]:
        """Move the blocks of a decision; return what was sent for it.

        Args:
            module: Whose plan it is.
            decision: A new plan, or why there is none.
            folder: Of the run, where the plan is written; None writes none.
            say: Prints a line.
        """
        if decision.plan is None:
            say(f"round {module.num_rounds}: cuts {decision.reason}")
            return ()
        self.previous = [module.engine.plan, *self.previous][:3]
        moves = module.engine.apply_plan(decision.plan)
        say(
            f"round {module.num_rounds}: cuts {decision.reason}; {len(decision.moved)} blocks and "
            f"{_sum_bytes(moves) / 1e6:.2f} MB moved, a step takes "
            f"{decision.latency_before_s:.3g} -> {decision.latency_after_s:.3g} s"
        )
        if folder is not None:
            path = folder / f"plan-round-{module.num_rounds:04d}.yaml"
            figures = {"latency_s": decision.latency_after_s, "reason": decision.reason}
            module.engine.plan.save(path, **figures, moved=[vars(move) for move in moves])
        return moves


def _find_run_folder(trainer: Trainer) -> Path | None:
    run = [c for c in trainer.callbacks if isinstance(c, RunFolder)]  # type: ignore[attr-defined]
    return run[0].path if run else None


def _sum_bytes(moves: Iterable[Move]) -> int:
    return sum(move.num_bytes for move in moves)
