"""Training and asking small classifiers without touching anybody else's state."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import HuscfError
from ..models import evaluating, to_float
from .labelled_samples import LabelledSamples

#: Values of a sample up to which several threads are no faster than one. Where other programs run
#: too, they wait for each other: on two busy cores they took 10 to 20 times as long for 8x8.
SMALL = 16 * 16


@dataclass(frozen=True)
class ClassifierTraining:
    """How long and how fast a classifier is trained, by Adam on the cross-entropy.

    Args:
        epochs: Passes over the data, at least 1.
        max_samples_seen: Stops a large set's training earlier, within an epoch if need be;
            0 means no such bound.
        batch_size: Samples a step; less where the data has fewer.
        learning_rate: Adam's; the peak where `one_cycle`.
        one_cycle: Warm the learning rate up and anneal it, instead of keeping it constant.
    """

    epochs: int
    max_samples_seen: int = 0
    batch_size: int = 128
    learning_rate: float = 1e-3
    one_cycle: bool = False

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.learning_rate <= 0:
            raise HuscfError(f"epochs, batch_size and learning_rate must be above 0: {self}")

    def count_steps(self, num_samples: int) -> int:
        """Return the number of optimiser steps on this many samples, at least 1."""
        seen = self.epochs * num_samples
        if self.max_samples_seen:
            seen = min(seen, self.max_samples_seen)
        return max(1, seen // min(self.batch_size, num_samples))


@contextmanager
def private_training(seed: int) -> Iterator[None]:
    """Own random numbers and gradients on, whatever surrounds; everything restored afterwards.

    Lightning's validation hooks run in inference mode, where nothing could be trained.
    """
    # The generator's own seeding, unlike torch.manual_seed, leaves the accelerators' alone.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        torch.default_generator.manual_seed(seed)
        yield


def train_classifier(
    network: nn.Module,
    data: LabelledSamples,
    training: ClassifierTraining,
    steps: int | None = None,
) -> None:
    """Train in place; call it, and build the network, inside `private_training`.

    Args:
        network: (B, C, H, W) to (B, num_classes) logits, on any device; left in evaluation mode.
        data: What to learn, at least two samples; batches go to the network's device.
        training: How long.
        steps: So many optimiser steps instead of training.epochs.

    Raises:
        HuscfError: Where there are fewer than two samples.
    """
    if len(data) < 2:
        raise HuscfError("a classifier cannot be trained on fewer than two samples")
    # Channels last is 1.3 to 2 times faster on CPUs.
    network.to(memory_format=torch.channels_last).train()
    steps = steps or training.count_steps(len(data))
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate)
    scheduler = None
    if training.one_cycle:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.learning_rate, total_steps=max(steps, 2)
        )
    device = next(network.parameters()).device
    with fitting_threads(data.samples[0].numel()):
        for indices in _shuffled_batches(len(data), training.batch_size, steps):
            samples, labels = data.samples[indices].to(device), data.labels[indices].to(device)
            logits = network(_channels_last(to_float(samples)))
            loss = nn.functional.cross_entropy(logits, labels.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
    network.eval()


def apply_in_batches(network: nn.Module, data: LabelledSamples) -> Tensor:
    """Return the network's outputs, (N, ...), in evaluation mode; its modes are restored."""
    device = next(network.parameters()).device
    with evaluating(network):
        return torch.cat([network(_channels_last(batch.to(device))) for batch in data.batches()])


def _shuffled_batches(count: int, batch_size: int, steps: int) -> Iterator[Tensor]:
    batch_size = min(batch_size, count)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(count)
        yield order[:batch_size]
        order = order[batch_size:]


@contextmanager
def fitting_threads(num_values: int) -> Iterator[None]:
    """Work on samples of at most SMALL values in one thread."""
    before = torch.get_num_threads()
    if num_values <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _channels_last(samples: Tensor) -> Tensor:
    return samples.contiguous(memory_format=torch.channels_last)
