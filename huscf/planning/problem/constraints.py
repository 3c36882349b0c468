"""What a plan must respect, and what it is to be good at."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import PlanError
from ..costs.leakage import Leakage, check_share
from ..latency.stage_tables import Ints
from .plan_cuts import is_cut_name, list_cut_names


@dataclass(frozen=True)
class Constraints:
    """Hard limits; a device's memory is one as well and needs no entry here.

    Args:
        min_heads: Network -> blocks that every client keeps at its input, >= 1: a floor for
            privacy, as the activations of deeper blocks give away less of a sample.
        forbidden_cuts: Cut name (generator_head, generator_tail, discriminator_head,
            discriminator_tail) -> block counts that no client may hold there.
        max_latency_s: Upper limit, or None.
        max_bytes_per_step: Upper limit of all clients' traffic in a step, or None.
        max_energy_j: Upper limit of all clients' energy in a step, or None.
        max_leakage: Share of the samples' variance that the cut of no client may give away, from 0
            to 1, or None; needs costs with a leakage.
        common_boundary: Whether one boundary between two blocks of the observed network must be
            at the server for all clients, as cluster rules need that compare what clients send.
    """

    min_heads: Mapping[str, int] = field(default_factory=dict)
    forbidden_cuts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    max_latency_s: float | None = None
    max_bytes_per_step: float | None = None
    max_energy_j: float | None = None
    max_leakage: float | None = None
    common_boundary: bool = False

    def __post_init__(self) -> None:
        for name, counts in self.forbidden_cuts.items():
            if not is_cut_name(name):
                raise PlanError(
                    f"forbidden_cuts: unknown cut {name}; a cut is NETWORK_head or NETWORK_tail"
                )
            for count in counts:
                if type(count) is not int or count < 1:
                    raise PlanError(
                        f"forbidden_cuts: {name}: {count!r} is no whole number of blocks >= 1"
                    )
        for network, count in self.min_heads.items():
            if count < 1:
                raise PlanError(f"min_{network}_head is {count}, must be >= 1")
        for name in ("max_latency_s", "max_bytes_per_step", "max_energy_j"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise PlanError(f"{name} is {limit}, must be > 0")
        check_share("max_leakage", self.max_leakage)

    def check_cut_names(self, networks: Iterable[str]) -> None:
        """Raise a PlanError that names a forbidden cut of no network that is planned for."""
        known = list_cut_names(networks)
        for name in self.forbidden_cuts:
            if name not in known:
                raise PlanError(f"forbidden_cuts: unknown cut {name}; known: {', '.join(known)}")

    @property
    def has_limits(self) -> bool:
        """Return whether latency, traffic or energy is limited."""
        limits = (self.max_latency_s, self.max_bytes_per_step, self.max_energy_j)
        return any(limit is not None for limit in limits)

    def filter_options(self, network: str, options: Ints, leakage: Leakage | None = None) -> Ints:
        """Return the (options, 2) head and tail counts that are allowed.

        Args:
            network: Of which network.
            options: (options, 2) head and tail counts.
            leakage: What the network's cuts give away; needed where that is limited.

        Raises:
            PlanError: Where nothing is left.
        """
        # A method that leaves clients no head, as of a generator at the server, has none to keep.
        floor = self.min_heads.get(network, 1) if options[:, 0].any() else 0
        allowed = options[:, 0] >= floor
        for side, end in enumerate(("head", "tail")):
            forbidden = list(self.forbidden_cuts.get(f"{network}_{end}", ()))
            allowed &= ~np.isin(options[:, side], forbidden)
        if not allowed.any():
            raise PlanError(
                f"min_{network}_head {floor} and forbidden_cuts leave no cut of the {network}"
            )
        if self.max_leakage is not None and leakage is not None:
            allowed &= leakage.of_options(network, options) <= self.max_leakage
            if not allowed.any():
                raise PlanError(f"max_leakage {self.max_leakage:g} leaves no cut of the {network}")
        return options[allowed]


@dataclass(frozen=True)
class Objective:
    """Weighted sum that a search makes small; the default is latency alone.

    Args:
        latency_weight: Per second of a step.
        bytes_weight: Per byte of all clients' traffic in a step.
        energy_weight: Per joule of all clients in a step; needs power_w in every profile.
        leakage_weight: Per share of the samples' variance that the cut of a client gives away, the
            mean over clients; needs costs with a leakage.
    """

    latency_weight: float = 1.0
    bytes_weight: float = 0.0
    energy_weight: float = 0.0
    leakage_weight: float = 0.0

    def __post_init__(self) -> None:
        weights = vars(self)
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise PlanError(f"{name} is {weight}, must be a finite number >= 0")
        if not any(weights.values()):
            raise PlanError(f"{', '.join(weights)} are all 0: nothing is to be made small")

    @property
    def is_latency(self) -> bool:
        """Return whether only latency counts."""
        return not (self.bytes_weight or self.energy_weight or self.leakage_weight)
