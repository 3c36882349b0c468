"""Puts the U-shaped loop into the trainer."""

from lightning.pytorch import Callback, LightningModule, Trainer

from ..loops import UShapedLoop, install_step_loop


class SplitTraining(Callback):
    """Lets the trainer run U-shaped exchanges; every training run needs it."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the loop before the loops' progress is restored."""
        install_step_loop(trainer, UShapedLoop(trainer))
