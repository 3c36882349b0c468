"""A round's end as an event, and the callbacks that wait for it."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer

from ..training import RoundResult, SplitModule


class RoundCallback(Callback):
    """A callback with two more hooks; the order of callbacks does not matter to them."""

    def on_round_end(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Do something after a round's blocks were averaged; add figures to result.figures."""

    def on_round_logged(self, trainer: Trainer, module: SplitModule, result: RoundResult) -> None:
        """Write or judge a round's figures, when all callbacks have added theirs."""

    def explain_stop(self, state_dict: Mapping[str, Any]) -> str:
        """Return by which option a run in this state has ended, "" where it has not.

        Args:
            state_dict: This callback's, as the run has saved it.
        """
        return ""


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


def find_stop(trainer: Trainer, checkpoint: Mapping[str, Any]) -> str:
    """Return the option by which a run was ended and would be again, "" where there is none."""
    saved = checkpoint["callbacks"]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = saved.get(callback.state_key) if isinstance(callback, RoundCallback) else None
        if isinstance(state, dict) and (option := callback.explain_stop(state)):
            return option
    return ""


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
