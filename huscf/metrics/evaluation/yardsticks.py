"""What generated samples are worth beside real ones: one classifier, trained on either and both."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import torch

from ..classifier_training import ClassifierTraining
from ..downstream_utility import measure_downstream_utility
from ..labelled_samples import LabelledSamples, RealData
from ..utility_cache import load_downstream_utility

#: Of what a classifier reaches these are reported.
REPORTED = ("accuracy", "f1")


class OwnData(Protocol):
    """Which training samples of a domain a client owns; huscf.datamodules.ClientData has it."""

    client_id: int
    indices: np.ndarray


class Yardsticks:
    """Downstream figures of a domain's real data, of generated samples, and of both together.

    Only the data differ: network, steps, batch, seed and test data are the same for all, and none
    is augmented. What no generated sample changes is kept on disk for other runs.

    This reads the clients' samples, as a simulation may; a site would do it for itself.

    Args:
        real: The domain's data.
        training: The classifier's; its epochs are those over the generated samples.
        num_generated: How many these are; they decide about the steps of all.
        seed: Of the classifier.
        device: Where it is trained; None is where the samples are.
    """

    def __init__(
        self,
        real: RealData,
        training: ClassifierTraining,
        num_generated: int,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.real = real
        self.training = training
        self.steps = training.count_steps(num_generated)
        self.seed = seed
        self.device = device

    def measure_pooled(self, owners: Iterable[OwnData]) -> dict[str, float]:
        """Return the figures of all the clients' real data: what sharing them would give."""
        indices = np.concatenate([owner.indices for owner in owners])
        return _name(self._measure_real(np.sort(indices)), "_pooled")

    def measure_client(
        self, owner: OwnData, generated: LabelledSamples, alone: bool = True
    ) -> dict[str, float]:
        """Return the figures of a client's own data, of samples it has drawn, and of both.

        Args:
            owner: The client.
            generated: What its generator draws, balanced.
            alone: Whether the samples are measured by themselves too.

        Returns:
            downstream_accuracy_own of its real samples, ..._generated if asked for, and ..._mixed
            of both, half of the classifier's samples each; F1 likewise.
            downstream_gain is the accuracy that the generated samples add to its own data.
        """
        own = self._measure_real(owner.indices)
        mixed = self._measure(mix(self._select(owner.indices), generated))
        return {
            **_name(own, "_own"),
            **(_name(self._measure(generated), "_generated") if alone else {}),
            **_name(mixed, "_mixed"),
            "downstream_gain": mixed["accuracy"] - own["accuracy"],
        }

    def _measure_real(self, indices: np.ndarray) -> dict[str, float]:
        data = self._select(indices)
        how = self.training, self.seed, self.steps, self.device
        return load_downstream_utility(data, self.real.test, *how)

    def _measure(self, data: LabelledSamples) -> dict[str, float]:
        how = self.training, self.seed, self.steps, self.device
        return measure_downstream_utility(data, self.real.test, *how)

    def _select(self, indices: np.ndarray) -> LabelledSamples:
        """Return these training samples, repeated until they fill a batch."""
        data = self.real.train.select(torch.as_tensor(indices))
        return data.at_least(self.training.batch_size)


def mix(own: LabelledSamples, generated: LabelledSamples) -> LabelledSamples:
    """Return as many samples of the one as of the other; the fewer are repeated.

    Joined as they are, a handful of real samples would drown: with 360 real digits and 5,000
    generated ones a classifier was worse than with the real ones alone.
    """
    count = max(len(own), len(generated))
    return own.at_least(count).joined(generated.at_least(count))


def _name(figures: Mapping[str, float], kind: str) -> dict[str, float]:
    return {f"downstream_{name}{kind}": figures[name] for name in REPORTED}
