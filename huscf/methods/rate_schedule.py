"""How learning rates change over the steps of a run."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import HuscfError, check_count, check_number

Shape = Literal["linear", "cosine"]


@dataclass(frozen=True)
class RateSchedule:
    """Raises learning rates at the beginning of a run and lowers them towards its end.

    Every party follows from the number of the step alone, so that nothing is sent for it and a run
    that goes on has the rates that it would have had. Steps are counted from 0, over all rounds.

    Args:
        fall_from: Step at which rates begin to fall.
        fall_until: Step from which on they are at their last, `last_part` of the rate; after
            fall_from. The run's last step, for instance: rounds * steps of a round.
        last_part: Part of a rate that is left then, from 0 to 1; at 0 nothing is trained any more.
        shape: Of the fall: a straight line, or half a wave of a cosine.
        warmup_steps: Steps in which rates rise in equal parts to all of the rate; 0 has none.
    """

    fall_from: int = 0
    fall_until: int | None = None
    last_part: float = 0.0
    shape: Shape = "linear"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        owner = "method.rate_schedule"
        check_number(f"{owner}.last_part", self.last_part, 0, 1)
        for name in ("fall_from", "warmup_steps"):
            check_count(f"{owner}.{name}", getattr(self, name))
        if self.fall_until is not None:
            check_count(f"{owner}.fall_until", self.fall_until, self.fall_from + 1)
        if self.shape not in get_args(Shape):
            raise HuscfError(f"{owner}.shape is {self.shape}, must be linear or cosine")

    def factor(self, step: int) -> float:
        """Return what learning rates are multiplied by in a step, from 0 to 1."""
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.fall_until is None:
            return rise
        way = (step - self.fall_from) / (self.fall_until - self.fall_from)
        way = min(max(way, 0.0), 1.0)
        left = 1 - way if self.shape == "linear" else (1 + math.cos(math.pi * way)) / 2
        return rise * (self.last_part + (1 - self.last_part) * left)
