"""What a round needs to know of a run, and what it comes to."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from ..engines import LocalEngine, Mixture
from ..federation import RoundDecision
from ..methods import Method
from ..parties import Server


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
        warnings: What a user should hear of, a line each.
        trained_at: When the averaging was over, by the monotonic clock: what follows is evaluation,
            pictures and files, and no training.
    """

    number: int
    decision: RoundDecision
    mixture: Mixture
    is_last: bool = False
    compares_clients: bool = True
    figures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
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
