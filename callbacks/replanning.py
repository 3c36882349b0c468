"""Checks the cuts against the devices as they are, and changes them when that is worthwhile."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import HuscfError, PlanError
from ..modules import SplitGAN
from ..modules.server import observed_boundary
from ..planning import (
    DriftSchedule,
    Fleet,
    PlanOptions,
    ReplanDecision,
    Replanner,
    SearchedPlan,
    measure_latency,
)
from ..split import Cut, CutPlan, NetworkName, cuts_of
from .run_folder import RunFolder


class Replanning(Callback):
    """After a round's federation: log the plan's latency, and move blocks if devices drifted.

    Works with model.plan huscf.planning.SearchedPlan, whose devices and options it uses; with
    other plans there is nothing to log and every_n_rounds must be 0.

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
        self.hysteresis = hysteresis
        self.drift = DriftSchedule(()) if drift is None else DriftSchedule.load(drift)
        self.previous: list[CutPlan] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what the first re-planning, rounds later, would trip over."""
        assert isinstance(pl_module, SplitGAN)
        source = pl_module.plan_source
        if isinstance(source, SearchedPlan):
            if self.every_n_rounds:
                Replanner(source.make_options(pl_module.seed), 1, self.hysteresis)
            if source.fleet is not None:
                self.drift.check(source.fleet)
        elif self.every_n_rounds:
            raise HuscfError(
                "replanning.every_n_rounds: only a searched plan can be re-planned; set "
                "model.plan to huscf.planning.SearchedPlan"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, apply, log."""
        assert isinstance(pl_module, SplitGAN)
        source = pl_module.plan_source
        if not pl_module.round_metrics or not isinstance(source, SearchedPlan):
            return
        assert source.fleet is not None and source.subject is not None
        fleet = self.drift.apply(pl_module.num_rounds, source.fleet)
        options = source.make_options(pl_module.seed)
        moved_bytes = 0
        if self.should_replan(pl_module.num_rounds):
            steps = trainer.global_step * self.every_n_rounds // pl_module.num_rounds
            try:
                decision = self.decide(pl_module, source, fleet, options, max(1, steps))
            except PlanError as error:
                # As where a device has become too small for any cut.
                print(f"round {pl_module.num_rounds}: cuts kept: {error}")
            else:
                moved_bytes = self._apply(trainer, pl_module, decision)
        latency = measure_latency(pl_module.plan, source.subject, fleet, options)
        pl_module.report("plan/latency_s", latency)
        pl_module.report("plan/moved_mbytes", moved_bytes / 1e6)

    def should_replan(self, num_rounds: int) -> bool:
        """Return whether the plan is reconsidered after this many rounds."""
        return self.every_n_rounds > 0 and num_rounds % self.every_n_rounds == 0

    def decide(
        self,
        module: SplitGAN,
        source: SearchedPlan,
        fleet: Fleet,
        options: PlanOptions,
        num_steps: int,
    ) -> ReplanDecision:
        """Compare the running plan with what the present devices allow."""
        assert source.subject is not None
        replanner = Replanner(options, num_steps, self.hysteresis)
        return replanner.decide(module.plan, source.subject, fleet, tuple(self.previous))

    def state_dict(self) -> dict[str, Any]:
        """Return earlier plans, from which the next search starts."""
        return {"previous": [plan.to_dict() for plan in self.previous]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with earlier plans."""
        self.previous = [CutPlan.from_dict(values) for values in state_dict["previous"]]

    def _apply(self, trainer: Trainer, module: SplitGAN, decision: ReplanDecision) -> int:
        """Move the blocks of a decision; return the bytes that changed hands."""
        reason = decision.reason
        if decision.plan is not None and observed_boundary(decision.plan) is None:
            decision = ReplanDecision(**{**vars(decision), "plan": None, "moved": ()})
            reason = "kept: under the new plan the server could not compare clients"
        self._tell(module.num_rounds, reason, decision)
        if decision.plan is None:
            return 0
        self.previous = [module.plan, *self.previous][:3]
        module.apply_plan(decision.plan)
        for block in decision.moved:
            cut = _name_cut(decision.plan, block.network, block.block)
            module.exchange.count(block.client_id, cut, block.direction, block.num_bytes)
        run = [c for c in trainer.callbacks if isinstance(c, RunFolder)]  # type: ignore[attr-defined]
        if run and run[0].path is not None:
            path = run[0].path / f"plan-round-{module.num_rounds:04d}.yaml"
            moved = [vars(block) for block in decision.moved]
            module.plan.save(path, latency_s=decision.latency_after_s, reason=reason, moved=moved)
        return decision.num_bytes

    def _tell(self, num_rounds: int, reason: str, decision: ReplanDecision) -> None:
        line = f"round {num_rounds}: cuts {reason}"
        if decision.plan is not None:
            line += (
                f"; {len(decision.moved)} blocks and {decision.num_bytes / 1e6:.2f} MB moved, a "
                f"step takes {decision.latency_before_s:.3g} -> {decision.latency_after_s:.3g} s"
            )
        print(line)


def _name_cut(plan: CutPlan, network: NetworkName, block: int) -> Cut:
    """Return the cut that moved: the head's if the block lies in the network's first half."""
    head, tail = cuts_of(network)
    return head if block < plan.num_blocks(network) / 2 else tail
