"""How hard an audit tries, and what it has come to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..errors import check_count
from .auxiliary_data import LEAST

Adversary = Literal["server", "cluster member", "sample holder"]
Figures = dict[str, float]


@dataclass(frozen=True)
class AuditSettings:
    """How hard the attacks try.

    Args:
        seed: Of everything that they draw.
        num_auxiliary: At most so many labelled samples an attacker has of its own, see
            `choose_auxiliary`.
        inversion_steps: Of the optimisation.
        decoder_steps: Of the decoder's training.
        num_generated: Samples that are drawn of each domain, as if they were published.
        num_judged: At most so many members of each domain, and as many others.
    """

    seed: int = 0
    num_auxiliary: int = 1000
    inversion_steps: int = 2000
    decoder_steps: int = 1000
    num_generated: int = 2000
    num_judged: int = 2000

    def __post_init__(self) -> None:
        check_count("--seed", self.seed)
        least = {"num_auxiliary": LEAST}
        for name in ("num_auxiliary", "inversion_steps", "decoder_steps", "num_generated"):
            check_count(f"--{name}", getattr(self, name), least.get(name, 1))
        check_count("--num_judged", self.num_judged, 10)


@dataclass(frozen=True)
class Finding:
    """What one attack has come to.

    Args:
        attack: Which.
        adversary: Who can make it.
        place: Where: a cut and whose, a network, or which data.
        knowing: Which labelled samples the attacker has, or "".
        trained: Figures on the run.
        untrained: The same on a run of the same configuration before its first step.
        chance: Of whoever has seen nothing.
    """

    attack: str
    adversary: Adversary
    place: str
    knowing: str
    trained: Figures
    untrained: Figures
    chance: Figures


@dataclass
class Audit:
    """All that was tried.

    Args:
        findings: In the order in which they were made.
        not_applicable: Reason by attack, or by attack and place.
        pictures: Originals and what was made of them, (N, C, H, W) in [-1, 1], by title.
        counts: How many samples were used for what.
        leakage: What `huscf plan --leakage` reads, or {} where no samples were looked for.
    """

    findings: list[Finding] = field(default_factory=list)
    not_applicable: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    leakage: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        attack: str,
        adversary: Adversary,
        place: str,
        figures: Mapping[str, Figures],
        chance: Figures,
        knowing: str = "",
    ) -> None:
        """Add a finding; figures are of the "trained" and the "untrained" run."""
        both = figures["trained"], figures["untrained"]
        self.findings.append(Finding(attack, adversary, place, knowing, *both, chance))

    def find_worst_inversion(self, place: str) -> tuple[float, str] | None:
        """Return the share of the samples' variance that the best attack gave back, and which.

        Args:
            place: The cut and whose it is; whatever follows says in which way it sends.

        Returns:
            0 is no more than the mean sample, 1 is exactly; None where none looked for samples.
        """
        shares = [
            (max(0.0, 1 - each.trained["mse"] / each.chance["mse"]), each)
            for each in self.findings
            if each.place.startswith(place) and "mse" in each.trained
        ]
        if not shares:
            return None
        share, best = max(shares, key=lambda pair: pair[0])
        return share, f"{best.attack}{best.place.removeprefix(place)}"

    def as_values(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values."""
        return {
            "attacks": [asdict(finding) for finding in self.findings],
            "not_applicable": self.not_applicable,
            "counts": self.counts,
            "leakage": self.leakage,
        }
