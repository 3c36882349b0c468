"""What a user says of differential privacy, of single records and of whole clients."""

from dataclasses import dataclass
from typing import Literal, Protocol

from ...errors import HuscfError, check_number

AccountantName = Literal["pld", "rdp"]


class Budget(Protocol):
    """What an accountant needs to know, of whatever is kept private."""

    @property
    def noise_multiplier(self) -> float:
        """Return the standard deviation of the noise, in units of what it hides."""

    @property
    def delta(self) -> float | None:
        """Return the probability with which epsilon may not hold."""

    @property
    def max_epsilon(self) -> float | None:
        """Return what may be spent; None has no limit."""

    @property
    def accountant(self) -> AccountantName:
        """Return how the library adds up."""


@dataclass(frozen=True)
class DifferentialPrivacy:
    """Differential privacy of every client's single records, by DP-SGD; see docs/privacy.md.

    Source: Abadi et al., CCS 2016, arXiv:1607.00133.

    Args:
        noise_multiplier: Standard deviation of the noise, >= 0, in units of max_grad_norm; more
            gives a smaller epsilon and worse samples. 0 clips alone, and has no epsilon.
        max_grad_norm: Largest norm of one record's gradient, > 0, over all parts of the networks
            that are trained on it; larger ones are scaled down to it.
        delta: Probability, in (0, 1), with which epsilon may not hold; far below 1 / the records of
            a client.
        max_epsilon: Training stops before the step that would exceed it; None does not stop.
        accountant: How dp-accounting adds up what steps cost: "pld" (tight) or "rdp" (quick).
    """

    noise_multiplier: float = 1.0
    max_grad_norm: float = 1.0
    delta: float | None = None
    max_epsilon: float | None = None
    accountant: AccountantName = "pld"

    def __post_init__(self) -> None:
        check_number("privacy.max_grad_norm", self.max_grad_norm, 0, is_open=True)
        _check_budget("privacy", self, "a client's records, as 1e-5")


@dataclass(frozen=True)
class ClientPrivacy:
    """Differential privacy of whole clients, by DP-FedAvg; see docs/privacy.md.

    Source: McMahan, Ramage, Talwar and Zhang, ICLR 2018, arXiv:1710.06963, with every client in
        every round, equal weights and flat clipping.

    Args:
        noise_multiplier: Standard deviation of the noise, >= 0, in units of what one client adds
            at most to an average: max_update_norm / the members of its cluster. More gives a
            smaller epsilon and worse samples. 0 clips alone, and has no epsilon.
        max_update_norm: Largest norm, > 0, of what a client has changed since the last average
            that it got, over all blocks together; larger changes are scaled down to it.
        delta: Probability, in (0, 1), with which epsilon may not hold; far below 1 / the clients.
        max_epsilon: Training stops before the round that would exceed it; None does not stop.
        accountant: How dp-accounting adds up what rounds cost: "pld" (tight) or "rdp" (quick).
    """

    noise_multiplier: float = 1.0
    max_update_norm: float = 1.0
    delta: float | None = None
    max_epsilon: float | None = None
    accountant: AccountantName = "pld"

    def __post_init__(self) -> None:
        check_number("federation.privacy.max_update_norm", self.max_update_norm, 0, is_open=True)
        _check_budget("federation.privacy", self, "clients, as 1e-5")


def _check_budget(option: str, budget: Budget, units: str) -> None:
    """Refuse what no epsilon follows from.

    Args:
        option: How the options' names begin.
        budget: The options.
        units: Of what delta is to be far below 1 / the number, and an example.

    Raises:
        HuscfError: Naming the option.
    """
    check_number(f"{option}.noise_multiplier", budget.noise_multiplier)
    if budget.delta is None:
        raise HuscfError(
            f"{option}.delta: an epsilon says nothing without it: set it far below 1 / the number "
            f"of {units}"
        )
    check_number(f"{option}.delta", budget.delta, 0, 1, is_open=True)
    if budget.max_epsilon is not None:
        check_number(f"{option}.max_epsilon", budget.max_epsilon, 0, is_open=True)
        if not budget.noise_multiplier:
            raise HuscfError(
                f"{option}.max_epsilon: without noise there is no epsilon: set "
                f"{option}.noise_multiplier above 0"
            )
