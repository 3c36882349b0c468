"""The only private imports from Lightning; tests/training checks each attribute that we rely on.

Lightning 2 has no public way to replace a loop, but the innermost slot,
`trainer.fit_loop.epoch_loop.manual_optimization`, still takes another one.
"""

from lightning.pytorch import Trainer
from lightning.pytorch.loops.optimization.manual import (
    _ManualOptimization as ManualOptimizationLoop,
)

__all__ = ["ManualOptimizationLoop", "install_step_loop"]


def install_step_loop(trainer: Trainer, loop: ManualOptimizationLoop) -> None:
    """Put a loop into the innermost slot of a trainer that is about to fit."""
    trainer.fit_loop.epoch_loop.manual_optimization = loop
