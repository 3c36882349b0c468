"""What draws samples: all that evaluation knows of a model."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...errors import HuscfError
from ...randomness import make_generator
from ..labelled_samples import LabelledSamples


class Sampler(Protocol):
    """Draws samples as single clients would; a trained model, or whatever stands for one."""

    seed: int

    def sample(self, client_id: int, labels: Tensor, stream: torch.Generator, /) -> Tensor:
        """Draw from one client's generator; changes no state.

        Args:
            client_id: Whose generator.
            labels: (N,) int64 classes to draw.
            stream: CPU random stream of the noise.

        Returns:
            (N, C, H, W) float32 in [-1, 1], on the CPU.
        """

    def draws_alike(self, one: int, other: int, /) -> bool:
        """Return whether two clients are known to draw through the same networks."""


def draw_samples(
    sampler: Sampler, members: Sequence[int], num_classes: int, num_per_class: int, purpose: str
) -> LabelledSamples:
    """Draw balanced samples, shared out over clients.

    Args:
        sampler: Draws them.
        members: Clients that draw; each gets every len(members)-th sample of every class, and
            those behind the last sample draw nothing.
        num_classes: Classes to draw, 0..num_classes - 1.
        num_per_class: Samples of each class over all members.
        purpose: Names the random stream, together with the sampler's seed.

    Raises:
        HuscfError: Where a client draws NaN or Inf.
    """
    samples, labels = [], []
    for client_id, count in zip(members, share_out(num_per_class, len(members)), strict=True):
        if not count:
            continue
        wanted = torch.arange(num_classes).repeat_interleave(count)
        stream = make_generator(sampler.seed, purpose, client_id)
        samples.append(sampler.sample(client_id, wanted, stream))
        if not samples[-1].isfinite().all():
            raise HuscfError(f"client {client_id} draws NaN or Inf: its training diverged")
        labels.append(wanted)
    return LabelledSamples(torch.cat(samples), torch.cat(labels), num_classes)


def share_out(count: int, num_members: int) -> list[int]:
    """Return how many of so many samples each member draws, the first ones one more."""
    return [len(range(position, count, num_members)) for position in range(num_members)]
