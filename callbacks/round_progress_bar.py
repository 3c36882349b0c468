"""One progress bar for the whole run: round, epoch, time left, and what else is going on."""

import sys
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from ..activity import Activity, OnceClock, describe_duration, unwatch, watch
from ..errors import check_number
from ..training import SplitModule
from .run_course import RunCourse

if TYPE_CHECKING:
    from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

BETWEEN = " · "


class RoundProgressBar(TQDMProgressBar):
    """Says "round 7 of 12 · epoch 34 of 60 · 3 min left", and "measuring digits 1/2" meanwhile.

    Where the output is no terminal, as in a log file, lines take the place of the bar.

    Args:
        refresh_rate: Steps between two updates; 0 shows nothing.
        line_every_s: Seconds between two lines where there is no terminal; what is done once in a
            run, as training a judge, has its line at once.
    """

    BAR_FORMAT = "{bar:12}| {desc}{postfix}"

    def __init__(self, refresh_rate: int = 5, line_every_s: float = 10.0) -> None:
        check_number("progress bar: line_every_s", line_every_s)
        super().__init__(refresh_rate)
        self.line_every_s = line_every_s
        self._course: RunCourse | None = None
        self._once = OnceClock()
        self._activities: tuple[Activity, ...] = ()
        self._said_at = 0.0

    @property
    def is_disabled(self) -> bool:
        """Whether no bar is drawn: as asked for, or because nobody would see one."""
        return not self.is_enabled or not _is_seen()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to what is going on."""
        super().setup(trainer, pl_module, stage)
        self._said_at = time.monotonic()
        watch(self._once)
        watch(self._show_activities)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        unwatch(self._once)
        unwatch(self._show_activities)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more, and leave the line to whoever says what went wrong."""
        self.teardown(trainer, pl_module, "")
        if (bar := self._bar()) is not None:
            bar.close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar that stays until training ends."""
        assert isinstance(pl_module, SplitModule)
        self._course = RunCourse.begin(trainer, pl_module.num_rounds)
        super().on_train_start()
        self.train_progress_bar.reset(self._course.num_steps)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Show the new epoch."""
        self._show(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Show the step."""
        if self.is_enabled and trainer.global_step % self.refresh_rate == 0:
            self._show(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the step, or say it."""
        self._show(trainer)

    def init_test_tqdm(self) -> "Tqdm":
        """Return a bar that gives way to the tables."""
        bar = super().init_test_tqdm()
        bar.leave = False
        return bar

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Show no number of the data loader; what is measured says which domain it is."""
        bar = self.val_progress_bar
        bar.n, bar.total = batch_idx, int(sum(trainer.num_val_batches))

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Show no number of the data loader; what is measured says which domain it is."""
        bar = self.test_progress_bar
        bar.n, bar.total = batch_idx, int(sum(trainer.num_test_batches))

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return nothing: the losses are in the text."""
        return {}

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print above the bar, or plainly where there is none."""
        if self.is_disabled:
            print(*args, sep=sep, flush=True)
        else:
            super().print(*args, sep=sep, **kwargs)

    def describe(self, trainer: Trainer) -> str:
        """Return what stands beside the bar."""
        parts = [] if self._course is None else self._course.describe(trainer)
        if self._activities:
            return BETWEEN.join([*parts, *(activity.text for activity in self._activities)])
        if self._course is None:
            return ""
        left = self._course.estimate_s(trainer, self._once.seconds)
        parts += [] if left is None else [f"{describe_duration(left)} left"]
        losses = getattr(trainer.lightning_module, "last_losses", {})
        named = (f"{name.removesuffix('_loss')} {value:.3f}" for name, value in losses.items())
        return BETWEEN.join([*parts, ", ".join(named)] if losses else parts)

    def _show_activities(self, running: tuple[Activity, ...]) -> None:
        has_new_once = any(a.is_once and a not in self._activities for a in running)
        self._activities = running
        self._show(self.trainer, at_once=has_new_once)

    def _show(self, trainer: Trainer, at_once: bool = False) -> None:
        """Draw the bar anew, or say a line where it is time for one."""
        if not self.is_enabled:
            return
        if not self.is_disabled:
            self._draw(trainer)
        elif at_once or time.monotonic() - self._said_at >= self.line_every_s:
            self._said_at = time.monotonic()
            print(self.describe(trainer), flush=True)

    def _draw(self, trainer: Trainer) -> None:
        if (bar := self._bar()) is not None:
            if trainer.training:
                bar.n = trainer.global_step
            bar.set_description_str(self.describe(trainer), refresh=False)
            bar.refresh()

    def _bar(self) -> "Tqdm | None":
        """Return the bar that is open, if one is."""
        bars = (self._val_progress_bar, self._test_progress_bar, self._train_progress_bar)
        is_open = (bar for bar in bars if bar is not None and not bar.disable)
        return next(is_open, None)


def _is_seen() -> bool:
    """Return whether a bar that is drawn over and over is seen as one."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules
