"""A step as data: which network each phase trains, on what the discriminator judges."""

from dataclasses import dataclass
from typing import Literal

from ..split import NetworkName

Source = Literal["fake", "real"]


@dataclass(frozen=True)
class Phase:
    """One half of a step, run for every client before its network is updated.

    Args:
        trains: The network that is updated at the end of the phase.
        sources: What the discriminator is run on, in this order.
    """

    trains: NetworkName
    sources: tuple[Source, ...]


#: Source: section 2 of the design, steps 2 and 3.
STEP = (Phase("discriminator", ("fake", "real")), Phase("generator", ("fake",)))
