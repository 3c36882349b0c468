"""The only private imports from Lightning; tests/training checks each attribute that we rely on.

Lightning 2 has no public way to replace a loop, but the innermost slot,
`trainer.fit_loop.epoch_loop.manual_optimization`, still takes another one.
"""

import signal
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.optimization.manual import (
    _ManualOptimization as ManualOptimizationLoop,
)

__all__ = ["ManualOptimizationLoop", "install_step_loop", "note_sigterm"]


def install_step_loop(trainer: Trainer, loop: ManualOptimizationLoop) -> None:
    """Put a loop into the innermost slot of a trainer that is about to fit."""
    trainer.fit_loop.epoch_loop.manual_optimization = loop


def note_sigterm(trainer: Trainer) -> None:
    """Let SIGTERM end a run of several processes between two steps, as the first one says.

    Lightning's own handler waits for the others within the handler, while they may wait for this
    process in the middle of a step.
    """

    def note(signum: int, frame: Any) -> None:
        if trainer.is_global_zero:
            trainer._signal_connector.received_sigterm = True

    signal.signal(signal.SIGTERM, note)
