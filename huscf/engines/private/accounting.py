"""What so many steps cost, as dp-accounting says, and how many a budget allows."""

from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import Any, NamedTuple

from ...errors import HuscfError
from .options import AccountantName, Budget


class Exposure(NamedTuple):
    """How often what is kept private, a record or a client, may have been looked at.

    Args:
        rate: Probability, in (0, 1], with which a record is in a step's batch; 1 for a client,
            which is in every round's average.
        num_steps: Steps that the record's client has taken, or rounds.
    """

    rate: float
    num_steps: int


class Accountant:
    """Says the epsilon of exposures; a library counts.

    Args:
        options: Noise, delta, and the budget.
    """

    def __init__(self, options: Budget) -> None:
        self.options = options
        self._epsilon = cache(self._count)
        self._limits: dict[float, tuple[int, int | None]] = {}

    def epsilon(self, exposures: Iterable[Exposure]) -> float:
        """Return the largest epsilon of any exposure."""
        return max((self._epsilon(each) for each in keep_worst(exposures)), default=0.0)

    def allows(self, exposures: Iterable[Exposure]) -> bool:
        """Return whether all exposures stay within the budget."""
        return self.options.max_epsilon is None or all(
            self._affords(each) for each in keep_worst(exposures)
        )

    def check_next(
        self,
        now: Collection[Exposure],
        then: Collection[Exposure],
        option: str,
        unit: str,
        remedies: str,
    ) -> None:
        """Refuse a budget that is used up; a library that is missing is told of as well.

        Args:
            now: Exposures so far.
            then: Those after the next step, or round.
            option: How the options' names begin.
            unit: Which of both.
            remedies: What else can be done than to raise the budget.

        Raises:
            HuscfError: Naming the option.
        """
        spent, next_one = self.epsilon(now), self.epsilon(then)
        if not self.allows(then):
            raise HuscfError(
                f"{option}.max_epsilon is {self.options.max_epsilon:g}, of which {spent:.4g} is "
                f"spent, and the next {unit} would bring it to {next_one:.4g}: raise it, or "
                f"{remedies}"
            )

    def check_room(self, then: Collection[Exposure], option: str, unit: str) -> None:
        """Refuse a step, or round, that the budget has no room for; see `check_next`."""
        if not self.allows(then):
            raise HuscfError(
                f"{option}.max_epsilon {self.options.max_epsilon}: another {unit} would exceed it; "
                "trainer.min_epochs and min_steps must not ask for more"
            )

    def _count(self, exposure: Exposure) -> float:
        if not exposure.num_steps:
            return 0.0
        make_accountant = make_counter(self.options.accountant)
        import dp_accounting

        noise: Any = dp_accounting.GaussianDpEvent(self.options.noise_multiplier)
        event = dp_accounting.PoissonSampledDpEvent(exposure.rate, noise)
        counted = make_accountant().compose(event, exposure.num_steps)
        return float(counted.get_epsilon(self.options.delta))

    def _affords(self, exposure: Exposure) -> bool:
        """Return whether so many steps stay within the budget; asks the library seldom."""
        rate, steps = exposure
        few, many = self._limits.get(rate, (0, None))  # within it, and the first known beyond
        while many is None and few < steps:
            more = max(steps, 2 * few)
            few, many = (more, None) if self._is_within(rate, more) else (few, more)
        while many is not None and many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if self._is_within(rate, middle) else (few, middle)
        self._limits[rate] = few, many
        return steps <= few

    def _is_within(self, rate: float, steps: int) -> bool:
        assert self.options.max_epsilon is not None
        return self._epsilon(Exposure(rate, steps)) <= self.options.max_epsilon


def keep_worst(exposures: Iterable[Exposure]) -> list[Exposure]:
    """Return those that no other exceeds both in rate and in steps, which cost the most."""
    worst: list[Exposure] = []
    for each in sorted(set(exposures), reverse=True):
        if not worst or each.num_steps > worst[-1].num_steps:
            worst.append(each)
    return worst


def make_counter(name: AccountantName) -> Callable[[], Any]:
    """Return what makes an accountant of the library.

    Raises:
        HuscfError: Where it is not installed.
    """
    try:
        from dp_accounting import pld, rdp
    except ImportError as error:
        raise HuscfError(
            "privacy needs dp-accounting, which counts epsilon: pip install 'huscf[privacy]'"
        ) from error
    # Whole orders alone: of others the library warns where many records are in every batch.
    orders = [*range(2, 64), *range(64, 257, 16), 512, 1024]
    return pld.PLDAccountant if name == "pld" else lambda: rdp.RdpAccountant(orders)
