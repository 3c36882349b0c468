"""HFL-GAN: two generators at every client, averaged at two levels."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import check_number
from ..models import LABELS, MAIN, Carry, Network, SampleShape
from ..wire import Kind
from .averages import Average, weigh_by_softmax
from .fedgan import FedGan
from .ifl_gan import DISCREPANCY, measure_discrepancy
from .phases import Loss, Pass, Phase

GLOBAL = "global_generator"


class HflGan(FedGan):
    """A discriminator and two generators at every client; one generator learns from all clients.

    The clusters are those of clients at one edge server. At every round's end the discriminator
    and both generators are averaged within a cluster. Every few rounds the second, global
    generator is averaged over the clusters' averages too, with weights exp(discrepancy), the mean
    over a cluster's clients of the maximum mean discrepancy of its samples and their data.
    Samples are drawn from the first. The server finds clusters from what a round changes in
    discriminators: federation.rule UpdateClusters (configs/methods/hflgan.yaml).

    Source: a reconstruction of Petch, Moustafa, Ma and Yasser 2024, doi:10.1007/s10489-024-05924-x,
        whose abstract names dynamic clusters, several generators and non-identical stages of
        averaging, and no more; see IflGan for the weights.

    Args:
        global_every_n_rounds: Rounds between two averages over all clusters, at least 1.
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = frozenset({"blocks", "figures"})
    told = (DISCREPANCY,)

    def __init__(self, global_every_n_rounds: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("method.global_every_n_rounds", global_every_n_rounds, 1)
        self.global_every_n_rounds = global_every_n_rounds
        self.learning_rates[GLOBAL] = self.learning_rates["generator"]

    def build_networks(self, shape: SampleShape) -> dict[str, Network]:
        """Return the generator, the discriminator, and a second generator of the same kind."""
        networks = super().build_networks(shape)
        return {**networks, GLOBAL: super().build_networks(shape)["generator"]}

    def prepare(self, samples: Tensor, labels: Tensor, streams: Callable, step: int) -> Carry:
        """Return what a GAN needs, and noise for the second generator."""
        private = super().prepare(samples, labels, streams, step)
        stream = streams("noise of the global generator")
        noise = torch.randn(len(labels), self.latent_dim, generator=stream)
        return {**private, "global noise": noise.to(samples.device)}

    def phases(self, step: int) -> tuple[Phase, Phase]:
        """Return the discriminator's half of a step, on both kinds of fakes, and the generators'.

        The discriminator's loss is that of the reals and the mean of those of the fakes.
        """
        judge, fool = super().phases(step)
        (fakes, fake, *others), (varied, fooled) = judge.passes, fool.passes
        noise = {**fakes.inputs, MAIN: "global noise"}
        second = Pass("global fakes", GLOBAL, noise, learn=measure_discrepancy)
        halves = [replace(each, loss=_halve(each.loss)) for each in (fake, _see_second(fake))]
        judging = (fakes, second, *halves, *others)
        second = self._seek_modes(replace(second, learn=None))
        fooling = (varied, fooled, second, _see_second(fooled))
        return Phase(judge.trains, judging), Phase((*fool.trains, GLOBAL), fooling)

    def average(
        self, network: str, number: int, plain: Average, told: Mapping[str, Mapping[int, float]]
    ) -> Average:
        """Return the average within clusters; every few rounds the global generator's of all."""
        if network != GLOBAL or (number + 1) % self.global_every_n_rounds:
            return plain
        return average_clusters(plain, told.get(DISCREPANCY, {}))


def average_clusters(plain: Average, discrepancies: Mapping[int, float]) -> Average:
    """Return the average of clusters' averages, those with larger discrepancies counting more.

    Args:
        plain: Within clusters.
        discrepancies: By client; a cluster has the mean of its clients that told, 0 without any.
    """
    found = defaultdict(list)
    for client, cluster in plain.clusters.items():
        if client in discrepancies:
            found[cluster].append(discrepancies[client])
    clusters = sorted(set(plain.clusters.values()))
    means = {c: sum(found[c]) / max(1, len(found[c])) for c in clusters}
    shares = weigh_by_softmax(means, dict.fromkeys(clusters, 1.0))
    weights = {c: weight * shares[plain.clusters[c]] for c, weight in plain.weights.items()}
    return Average(dict.fromkeys(weights, 0), weights)


def _see_second(item: Pass) -> Pass:
    """Return a discriminator's pass on the second generator's samples."""
    inputs = {MAIN: "global fakes", LABELS: item.inputs[LABELS]}
    return replace(item, name=f"global {item.name}", inputs=inputs)


def _halve(loss: Loss | None) -> Loss:
    """Return half of a loss."""
    assert loss is not None

    def half(outputs: Carry, private: Mapping[str, Tensor]) -> Tensor:
        return 0.5 * loss(outputs, private)

    return half
