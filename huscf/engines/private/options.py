"""What a user says of differential privacy."""

from dataclasses import dataclass
from typing import Literal

from ...errors import HuscfError, check_number


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
    accountant: Literal["pld", "rdp"] = "pld"

    def __post_init__(self) -> None:
        check_number("privacy.noise_multiplier", self.noise_multiplier)
        check_number("privacy.max_grad_norm", self.max_grad_norm, 0, is_open=True)
        if self.delta is None:
            raise HuscfError(
                "privacy.delta: an epsilon says nothing without it: set it far below 1 / the "
                "number of a client's records, as 1e-5"
            )
        check_number("privacy.delta", self.delta, 0, 1, is_open=True)
        if self.max_epsilon is not None:
            check_number("privacy.max_epsilon", self.max_epsilon, 0, is_open=True)
            if not self.noise_multiplier:
                raise HuscfError(
                    "privacy.max_epsilon: without noise there is no epsilon: set "
                    "privacy.noise_multiplier above 0"
                )
