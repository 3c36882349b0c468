"""Measures what the clients generate while they train."""

import time
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ..errors import HuscfError
from ..metrics import EvaluationSettings
from ..modules import SplitGAN
from .rounds import is_last_epoch


class Evaluation(Callback):
    """Scores every domain's samples after a round's federation, and once more at the end.

    The figures are columns "eval/<domain>/<figure>" of metrics.csv. Scores rest on a classifier
    that is trained on the domain's real data and cached; its own accuracy stands beside them.

    Args:
        every_n_rounds: How often; 0 only at the end of the run, -1 never.
        num_per_class: Samples drawn of each class, over all clients of a domain.
        level: "quick" scores and distances on a subset, "full" with downstream utility too. The
            end of the run is always evaluated in full.
        max_time_share: Evaluations between are skipped while they have taken a larger part of
            the run's time than this.
    """

    def __init__(
        self,
        every_n_rounds: int = 0,
        num_per_class: int = 500,
        level: Literal["quick", "full"] = "quick",
        max_time_share: float = 0.1,
    ) -> None:
        if every_n_rounds < -1 or num_per_class < 2:
            raise HuscfError("evaluation: every_n_rounds must be >= -1 and num_per_class >= 2")
        self.every_n_rounds = every_n_rounds
        self.num_per_class = num_per_class
        self.level = level
        self.max_time_share = max_time_share
        self._seconds = 0.0
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the time share."""
        self._seconds, self._started = 0.0, time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate where a round has just ended."""
        assert isinstance(pl_module, SplitGAN)
        is_last = is_last_epoch(trainer)
        if not pl_module.round_metrics or not self.should_evaluate(pl_module.num_rounds, is_last):
            return
        started = time.monotonic()
        full = is_last or self.level == "full"
        settings = EvaluationSettings() if full else EvaluationSettings.quick()
        domains = trainer.datamodule.client_domains  # type: ignore[attr-defined]
        for domain in dict.fromkeys(domains.values()):
            members = [c for c, name in domains.items() if name == domain]
            self._evaluate(pl_module, domain, members, settings)
        self._seconds += time.monotonic() - started

    def _evaluate(
        self, module: SplitGAN, domain: str, members: list[int], settings: EvaluationSettings
    ) -> None:
        """Report a domain's figures; samples that cannot be measured do not end the run."""
        try:
            evaluator = module.evaluator(domain)
            figures = evaluator.measure(module, members, self.num_per_class, settings)
        except (HuscfError, OSError) as error:
            rank_zero_warn(f"round {module.num_rounds}, {domain}: not evaluated: {error}")
            return
        for name, value in figures.items():
            module.report(f"eval/{domain}/{name}", value)

    def should_evaluate(self, num_rounds: int, is_last: bool) -> bool:
        """Return whether to evaluate after this many rounds."""
        if self.every_n_rounds < 0:
            return False
        if is_last:
            return True
        elapsed = time.monotonic() - self._started
        in_time = self._seconds <= self.max_time_share * elapsed
        return self.every_n_rounds > 0 and num_rounds % self.every_n_rounds == 0 and in_time
