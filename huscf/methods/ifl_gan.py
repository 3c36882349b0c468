"""IFL-GAN's weights: clients whose samples are farther from their data count more."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

from torch import Tensor

from ..models import MAIN, Carry
from ..wire import Kind
from .averages import Average, weigh_by_softmax
from .fedgan import FedGan
from .mean_discrepancy import mean_discrepancy
from .phases import Phase

#: What a client learns in a step, and tells the server when a round ends.
DISCREPANCY = "discrepancy"


class IflGan(FedGan):
    """FedGAN whose generators are averaged by how far their samples are from a client's data.

    Every client measures the maximum mean discrepancy of its last batch and the samples made for
    it, and tells the server. Generators are averaged with weights exp(discrepancy), so that those
    who have learned less count more, over all clients whatever their clusters, and a client takes
    the average only where its own discrepancy is above the mean. Discriminators are averaged as the
    federation says.

    Source: a reconstruction of IFL-GAN's weights, from two public scripts that repeat it.
        Deviations: one batch of the round's last step is measured; the kernel's width follows the
        median distance, as the scripts' is degenerate on images.

    Args:
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = frozenset({"blocks", "figures"})
    told = (DISCREPANCY,)

    def phases(self, step: int) -> tuple[Phase, Phase]:
        """Return FedGAN's, the fakes of the first with a measurement."""
        judge, fool = super().phases(step)
        fakes, *others = judge.passes
        measured = replace(fakes, learn=measure_discrepancy)
        return replace(judge, passes=(measured, *others)), fool

    def average(
        self, network: str, number: int, plain: Average, told: Mapping[str, Mapping[int, float]]
    ) -> Average:
        """Return the generators' average, of everybody who told."""
        known = told.get(DISCREPANCY, {})
        counted = {c: weight if c in known else 0.0 for c, weight in plain.weights.items()}
        if network != "generator" or not any(counted.values()):
            return plain
        weights = weigh_by_softmax({c: known[c] for c in counted if counted[c]}, counted)
        mean = fmean(known[c] for c in weights if weights[c])
        keepers = frozenset(c for c in weights if weights[c] and known[c] <= mean)
        return Average(dict.fromkeys(weights, 0), weights, keepers)


def measure_discrepancy(outputs: Carry, private: Mapping[str, Tensor]) -> Carry:
    """Return how far a client's generated samples, (B, C, H, W), are from its batch."""
    return {DISCREPANCY: mean_discrepancy(private["samples"], outputs[MAIN].detach())}
