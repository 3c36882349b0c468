"""A progress bar that says which round is running and how the losses stand."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from ..training import SplitModule


class RoundProgressBar(TQDMProgressBar):
    """Shows epoch, round and the last step's losses.

    Args:
        refresh_rate: Steps between two updates; 0 shows nothing.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the figures behind the bar."""
        assert isinstance(pl_module, SplitModule)
        figures: dict[str, int | str | float | dict[str, float]] = {
            "round": pl_module.num_rounds + 1
        }
        figures.update({name: round(v, 3) for name, v in pl_module.last_losses.items()})
        return figures
