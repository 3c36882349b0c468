"""How far a run has come: rounds, epochs and steps, and the time that is left."""

import time
from dataclasses import dataclass

from lightning.pytorch import Trainer

from .clustered_federation import ClusteredFederation

#: Before that many seconds nothing is estimated.
FIRST_ESTIMATE_S = 2.0


@dataclass(frozen=True)
class RunCourse:
    """Where this process began, and where the run ends.

    Args:
        first_step: Steps of all clients before this process.
        num_epochs: Of the whole run; None where nothing bounds it.
        num_steps: Likewise.
        num_rounds: Likewise.
        began: Moment by the monotonic clock.
    """

    first_step: int
    num_epochs: int | None
    num_steps: int | None
    num_rounds: int | None
    began: float

    @classmethod
    def begin(cls, trainer: Trainer, num_rounds: int) -> "RunCourse":
        """Read a trainer that is about to train.

        Args:
            trainer: The trainer.
            num_rounds: Rounds so far.
        """
        num_steps, num_epochs = _find_end(trainer)
        total = None
        every = _find_round_length(trainer)
        if num_epochs is not None and every is not None:
            first = trainer.current_epoch
            # The end of training ends a round too.
            total = num_rounds + num_epochs // every - first // every + bool(num_epochs % every)
        return cls(trainer.global_step, num_epochs, num_steps, total, time.monotonic())

    def describe(self, trainer: Trainer) -> list[str]:
        """Return "round 7 of 12" and "epoch 34 of 60", as far as they are known."""
        every, epoch = _find_round_length(trainer), trainer.current_epoch
        parts = []
        if every is not None:
            number = epoch // every + 1
            if self.num_rounds is not None and self.num_epochs is not None:
                # Counted from the end, as earlier runs may have ended rounds before their time.
                number = self.num_rounds - ((self.num_epochs - 1) // every - epoch // every)
            parts.append(_count("round", number, self.num_rounds))
        return [*parts, _count("epoch", epoch + 1, self.num_epochs)]

    def estimate_s(self, trainer: Trainer, once_s: float) -> float | None:
        """Return the seconds that are left, None where they are not known.

        Rounds' evaluations count as they have come so far; the last, full one is not in it.

        Args:
            trainer: The trainer.
            once_s: Seconds since the beginning that will not come again.
        """
        passed, done = time.monotonic() - self.began, trainer.global_step - self.first_step
        if self.num_steps is None or done < 1 or passed < FIRST_ESTIMATE_S:
            return None
        pace = max(0.0, passed - once_s) / done
        return pace * max(0, self.num_steps - trainer.global_step)


def _count(name: str, number: int, total: int | None) -> str:
    if total is None:
        return f"{name} {number}"
    return f"{name} {min(number, total)} of {total}"


def _find_end(trainer: Trainer) -> tuple[int | None, int | None]:
    """Return the steps and epochs of a run, whichever bound comes first."""
    batches = trainer.num_training_batches
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
    steps = trainer.max_steps if trainer.max_steps > 0 else None
    if batches == float("inf") or not batches:
        return steps, epochs
    by_epochs = None if epochs is None else epochs * int(batches)
    if by_epochs is not None and (steps is None or by_epochs <= steps):
        return by_epochs, epochs
    return steps, None if steps is None else -(-steps // int(batches))


def _find_round_length(trainer: Trainer) -> int | None:
    """Return the epochs of a round, None where nobody ends rounds."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    found = (c.every_n_epochs for c in callbacks if isinstance(c, ClusteredFederation))
    return next(found, None)
