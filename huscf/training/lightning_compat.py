"""The only private parts of Lightning; tests/training checks each attribute that we rely on.

Lightning 2 has no public way to replace a loop, but the innermost slot,
`trainer.fit_loop.epoch_loop.manual_optimization`, still takes another one.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.optimization.manual import (
    _ManualOptimization as ManualOptimizationLoop,
)

from ..whole_files import link_file

__all__ = ["LinkingCheckpoint", "ManualOptimizationLoop", "install_step_loop"]


def install_step_loop(trainer: Trainer, loop: ManualOptimizationLoop) -> None:
    """Put a loop into the innermost slot of a trainer that is about to fit."""
    trainer.fit_loop.epoch_loop.manual_optimization = loop


class LinkingCheckpoint(ModelCheckpoint):
    """Gives a file that is written already a second name, where Lightning would write it again."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(save_last="link", **kwargs)

    @staticmethod
    def _link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
        if trainer.is_global_zero and filepath != linkpath:
            link_file(Path(filepath), Path(linkpath))
        trainer.strategy.barrier()
