"""Measures what the clients generate while they train."""

import time
import warnings
from dataclasses import replace
from typing import Literal

from lightning.pytorch import LightningModule, Trainer

from ..activity import OnceClock, unwatch, watch
from ..errors import HuscfError, check_number
from ..metrics.evaluation import Effort, EvaluatedData, EvaluationSettings
from ..training import RoundResult, SplitModule, decide_first, share_items
from .base import RoundCallback

#: The column of what an evaluation has taken, which is no time of training.
EVALUATION_SECONDS = "evaluation/seconds"


class Evaluation(RoundCallback):
    """Scores every domain's samples after a round's federation, and once more at the end.

    The figures are columns "eval/<domain>/<figure>" of metrics.csv. Scores rest on a classifier
    that is trained on the domain's real data and cached; its own accuracy stands beside them.

    Args:
        every_n_rounds: How often; 0 only at the end of the run, -1 never.
        num_per_class: Samples drawn of each class, over all clients of a domain; a quick
            evaluation draws no more than it needs.
        level: "quick" scores and distances on a subset, "full" with downstream utility too. The
            end of the run is always evaluated in full.
        yardstick_clients: A full evaluation trains the downstream classifier of at most so many
            clients of a domain on their own real data, and on these and their samples, too; 0
            leaves that out.
        max_time_share: Evaluations between are skipped while they have taken a larger part of
            the run's time than this; judges, which the end needs too, do not count.
    """

    def __init__(
        self,
        every_n_rounds: int = 2,
        num_per_class: int = 500,
        level: Literal["quick", "full"] = "quick",
        yardstick_clients: int = 2,
        max_time_share: float = 0.1,
    ) -> None:
        check_number("evaluation.every_n_rounds", every_n_rounds, -1)
        check_number("evaluation.num_per_class", num_per_class, 2)
        check_number("evaluation.yardstick_clients", yardstick_clients)
        check_number("evaluation.max_time_share", max_time_share)
        self.every_n_rounds = every_n_rounds
        self.effort = Effort(num_per_class, num_yardstick_clients=yardstick_clients)
        self.level = level
        self.max_time_share = max_time_share
        self._seconds = 0.0
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the time share."""
        self._seconds, self._started = 0.0, time.monotonic()

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Evaluate after a round's federation."""
        if not decide_first(trainer, lambda: self.should_evaluate(result.number, result.is_last)):
            return
        started = time.monotonic()
        full = result.is_last or self.level == "full"
        settings = EvaluationSettings() if full else EvaluationSettings.quick()
        data: EvaluatedData = trainer.datamodule  # type: ignore[attr-defined]
        once = OnceClock()
        watch(once)
        try:
            found = share_items(
                module, data.domains, lambda domain: self._measure(module, data, domain, settings)
            )
        finally:
            unwatch(once)
        for domain, figures in found.items():
            result.figures.update({f"eval/{domain}/{n}": v for n, v in figures.items()})
        seconds = time.monotonic() - started
        result.figures[EVALUATION_SECONDS] = seconds
        # The end of the run needs the judges in any case.
        self._seconds += seconds - once.seconds

    def _measure(
        self, module: SplitModule, data: EvaluatedData, domain: str, settings: EvaluationSettings
    ) -> dict[str, float]:
        """Return a domain's figures; samples that cannot be measured do not end the run."""
        effort = self.effort
        if settings.downstream is None:
            # Twice what is measured: classes are thinned to be as frequent as among real ones.
            enough = -(-2 * settings.max_samples // data.domains[domain].num_classes)
            effort = replace(effort, num_per_class=min(effort.num_per_class, max(2, enough)))
        try:
            return module.score_book.measure(module, data, domain, settings, effort).row
        except (HuscfError, OSError) as error:
            # Of several processes the one that has the domain says it.
            message = f"round {module.num_rounds}, {domain}: not evaluated: {error}"
            warnings.warn(message, stacklevel=2)
            return {}

    def should_evaluate(self, num_rounds: int, is_last: bool) -> bool:
        """Return whether to evaluate after this many rounds."""
        if self.every_n_rounds < 0:
            return False
        if is_last:
            return True
        elapsed = time.monotonic() - self._started
        in_time = self._seconds <= self.max_time_share * elapsed
        return self.every_n_rounds > 0 and num_rounds % self.every_n_rounds == 0 and in_time
