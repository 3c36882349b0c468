"""A round's end as an event, and the callbacks that wait for it."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from lightning.pytorch import Callback, Trainer

from ..engines import LocalEngine, Mixture
from ..federation import RoundDecision
from ..methods import Method
from ..parties import Server
from ..training import SplitModule


@dataclass
class RoundResult:
    """What a round came to.

    Args:
        number: Rounds so far, this one included.
        decision: Clusters and weights.
        mixture: What was averaged, and how.
        is_last: Whether training ends with it.
        compares_clients: Whether clusters follow from what clients send, so that cuts must leave
            something comparable at the server.
        figures: By name; a row of metrics.csv.
        trained_at: When the averaging was over, by the monotonic clock: what follows is evaluation,
            pictures and files, and no training.
    """

    number: int
    decision: RoundDecision
    mixture: Mixture
    is_last: bool = False
    compares_clients: bool = True
    figures: dict[str, float] = field(default_factory=dict)
    trained_at: float = field(default_factory=time.monotonic)


class FederatedRun(Protocol):
    """What a round needs to know of a run: a SplitModule, or a server whose clients are at sites.

    Attributes:
        num_rounds: Rounds so far.
        seed: Of the run.
    """

    num_rounds: int
    seed: int

    @property
    def engine(self) -> LocalEngine:
        """Return the engine."""

    @property
    def method(self) -> Method:
        """Return the method."""

    @property
    def server(self) -> Server:
        """Return the server."""


class RoundCallback(Callback):
    """A callback with two more hooks; the order of callbacks does not matter to them."""

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Do something after a round's blocks were averaged; add figures to result.figures."""

    def on_round_logged(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Write or judge a round's figures, when all callbacks have added theirs."""


def end_round(trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
    """Tell all callbacks that a round has ended, and log its figures.

    Call it from a hook in which Lightning lets a module log, such as on_train_epoch_end.
    """
    callbacks = [c for c in trainer.callbacks if isinstance(c, RoundCallback)]  # type: ignore[attr-defined]
    for callback in callbacks:
        callback.on_round_end(trainer, module, result)
    for name, value in result.figures.items():
        module.log(name, value, logger=False, batch_size=1)
    for callback in callbacks:
        callback.on_round_logged(trainer, module, result)


def is_last_epoch(trainer: Trainer) -> bool:
    """Return, at an epoch's end, whether training ends with it: by epochs, steps, time or request.

    That ends a round too, however short, so that the last steps are federated, evaluated and saved.
    A stop by Lightning's EarlyStopping is not seen, as it is asked after other callbacks.
    """
    epochs, steps = trainer.current_epoch + 1, trainer.global_step
    if epochs == trainer.max_epochs or steps == trainer.max_steps:
        return True
    # Lightning goes on until both minima are reached.
    has_minimum = epochs >= (trainer.min_epochs or 0) and steps >= (trainer.min_steps or 0)
    return trainer.should_stop and has_minimum
