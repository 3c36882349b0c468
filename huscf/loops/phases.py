"""A step as data: which network each phase trains, on what the discriminator judges."""

from dataclasses import dataclass
from typing import Literal

from ..split import NetworkName

Source = Literal["fake", "real", "mismatched"]


@dataclass(frozen=True)
class Phase:
    """One half of a step, run for every client before its network is updated.

    Args:
        trains: The network that is updated at the end of the phase.
        sources: What the discriminator is run on, in this order.
        mismatched_weight: Of the loss on real samples with wrong labels.
    """

    trains: NetworkName
    sources: tuple[Source, ...]
    mismatched_weight: float = 0.0


def list_phases(mismatched_weight: float) -> tuple[Phase, Phase]:
    """Return the phases of a step.

    Source: section 2 of the design, steps 2 and 3.

    Args:
        mismatched_weight: Of the loss on real samples with wrong labels; 0 leaves them out.
    """
    sources: tuple[Source, ...] = ("fake", "real")
    if mismatched_weight:
        sources = (*sources, "mismatched")
    return Phase("discriminator", sources, mismatched_weight), Phase("generator", ("fake",))
