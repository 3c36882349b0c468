"""The only private parts of Lightning; tests/training checks each attribute that we rely on.

Lightning 2 has no public way to replace a loop, but the innermost slot,
`trainer.fit_loop.epoch_loop.manual_optimization`, still takes another one.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.optimization.manual import (
    _ManualOptimization as ManualOptimizationLoop,
)

from ..whole_files import link_file

__all__ = ["LinkingCheckpoint", "ManualOptimizationLoop", "install_step_loop", "note_sigterm"]

#: Seconds that a process waits after SIGTERM for the first one's word.
END_ALONE_AFTER_S = 3.0


def install_step_loop(trainer: Trainer, loop: ManualOptimizationLoop) -> None:
    """Put a loop into the innermost slot of a trainer that is about to fit."""
    trainer.fit_loop.epoch_loop.manual_optimization = loop


def note_sigterm(trainer: Trainer) -> None:
    """Let SIGTERM end a run of several processes between two steps, as the first one says.

    Lightning's own handler waits for the others within the handler, while they may wait for this
    process in the middle of a step. A process that is told to end while the first is not does so by
    itself after a while, which ends the others too.
    """

    def note(signum: int, frame: Any) -> None:
        if trainer.is_global_zero:
            trainer._signal_connector.received_sigterm = True
        else:
            ending = threading.Timer(END_ALONE_AFTER_S, os._exit, [128 + signum])
            ending.daemon = True
            ending.start()

    signal.signal(signal.SIGTERM, note)


class LinkingCheckpoint(ModelCheckpoint):
    """Gives a file that is written already a second name, where Lightning would write it again."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(save_last="link", **kwargs)

    @staticmethod
    def _link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
        if trainer.is_global_zero and filepath != linkpath:
            link_file(Path(filepath), Path(linkpath))
        trainer.strategy.barrier()
