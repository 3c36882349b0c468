"""What takes long beside the steps, as lines above a progress bar of the user's own."""

from lightning.pytorch import Callback, LightningModule, Trainer

from ..activity import Activity, unwatch, watch


class ActivityLines(Callback):
    """Says above another progress bar what RoundProgressBar shows: "training the judge".

    It says only what is done once in a run, and may take as long as many rounds.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._said: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to what is going on."""
        self._trainer = trainer
        watch(self._say)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        unwatch(self._say)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        unwatch(self._say)

    def _say(self, running: tuple[Activity, ...]) -> None:
        text = " · ".join(activity.text for activity in running)
        bar = None if self._trainer is None else self._trainer.progress_bar_callback
        if bar is not None and running and running[-1].is_once and text not in self._said:
            self._said.add(text)
            bar.print(text)
