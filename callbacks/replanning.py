"""Checks the cuts against the devices as they are, and changes them when that is worthwhile."""

from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ..errors import HuscfError, PlanError
from ..modules import SplitGAN
from ..planning import (
    DriftSchedule,
    Fleet,
    ReplanDecision,
    Replanner,
    SearchedPlan,
    measure_latency,
)
from ..split import Cut, CutPlan, NetworkName, cuts_of
from .clustered_federation import ClusteredFederation
from .run_folder import RunFolder


class Replanning(Callback):
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
        self.hysteresis = hysteresis
        self.drift = DriftSchedule(()) if drift is None else DriftSchedule.load(drift)
        self.previous: list[CutPlan] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what the first re-planning, rounds later, would trip over."""
        assert isinstance(pl_module, SplitGAN)
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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, apply, log."""
        assert isinstance(pl_module, SplitGAN)
        source = pl_module.plan_source
        if not pl_module.round_metrics or not isinstance(source, SearchedPlan):
            return
        assert source.fleet is not None and source.subject is not None
        fleet = self.drift.apply(pl_module.num_rounds, source.fleet)
        moved_bytes = 0
        if self.should_replan(pl_module.num_rounds):
            try:
                decision = self.decide(trainer, pl_module, source, fleet)
            except PlanError as error:
                # As where a device has become too small for any cut.
                print(f"round {pl_module.num_rounds}: cuts kept: {error}")
            else:
                moved_bytes = self._apply(trainer, pl_module, decision)
        options = source.make_options(pl_module.seed)
        latency = measure_latency(pl_module.plan, source.subject, fleet, options)
        pl_module.report("plan/latency_s", latency)
        pl_module.report("plan/moved_mbytes", moved_bytes / 1e6)

    def should_replan(self, num_rounds: int) -> bool:
        """Return whether the plan is reconsidered after this many rounds."""
        return self.every_n_rounds > 0 and num_rounds % self.every_n_rounds == 0

    def decide(
        self, trainer: Trainer, module: SplitGAN, source: SearchedPlan, fleet: Fleet
    ) -> ReplanDecision:
        """Compare the running plan with what the present devices allow."""
        assert source.subject is not None
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        federation = next((c for c in callbacks if isinstance(c, ClusteredFederation)), None)
        options = source.make_options(module.seed)
        if federation is not None and federation.needs_features:
            options = replace(options, common_boundary=True)
        steps = max(1, trainer.global_step * self.every_n_rounds // module.num_rounds)
        keeps_moments = federation is None or federation.moments != "reset"
        replanner = Replanner(options, steps, self.hysteresis, keeps_moments)
        return replanner.decide(module.plan, source.subject, fleet, tuple(self.previous))

    def state_dict(self) -> dict[str, Any]:
        """Return earlier plans, from which the next search starts."""
        return {"previous": [plan.to_dict() for plan in self.previous]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with earlier plans."""
        self.previous = [CutPlan.from_dict(values) for values in state_dict["previous"]]

    def _apply(self, trainer: Trainer, module: SplitGAN, decision: ReplanDecision) -> int:
        """Move the blocks of a decision; return the bytes that changed hands."""
        self._tell(module.num_rounds, decision)
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
            figures = {"latency_s": decision.latency_after_s, "reason": decision.reason}
            module.plan.save(path, **figures, moved=moved)
        return decision.num_bytes

    def _tell(self, num_rounds: int, decision: ReplanDecision) -> None:
        line = f"round {num_rounds}: cuts {decision.reason}"
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
