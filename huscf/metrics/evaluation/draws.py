"""The samples of one evaluation: what one figure has drawn, the next ones take again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...models import to_uint8
from ...randomness import derive_seed
from ..labelled_samples import LabelledSamples
from .sampler import Sampler, draw_samples, share_out


class Draws:
    """What clients of one domain draw while nothing trains.

    Clients that draw through the same networks, as members of a cluster do after a round, draw
    from one distribution, so that the samples of one stand for those of another.

    Args:
        sampler: Draws the samples.
        num_classes: Classes to draw, 0..num_classes - 1.
        max_kept: At most so many samples of each class and client are kept, as bytes; 0 keeps none.
    """

    def __init__(self, sampler: Sampler, num_classes: int, max_kept: int = 0) -> None:
        self.sampler = sampler
        self.num_classes = num_classes
        self.max_kept = max_kept
        self._kept: dict[int, Tensor] = {}  # (num_classes, n, C, H, W) uint8 by client

    def derive_seed(self, seed: int = 0) -> int:
        """Return what thins the samples of `together` and begins their classifier."""
        return derive_seed(self.sampler.seed, f"evaluation {seed}")

    def together(
        self, members: Sequence[int], num_per_class: int, seed: int = 0
    ) -> LabelledSamples:
        """Return new samples, balanced and shared out over clients; see `draw_samples`.

        Args:
            members: The clients that draw.
            num_per_class: Samples of each class over all of them.
            seed: Together with the sampler's it fixes the noise.
        """
        purpose = f"evaluation {seed}"
        drawn = draw_samples(self.sampler, members, self.num_classes, num_per_class, purpose)
        counts = share_out(num_per_class, len(members))
        parts = drawn.samples.split([self.num_classes * count for count in counts])
        for client_id, part in zip(members, parts, strict=True):
            self._keep(client_id, part)
        return drawn

    def single(self, client_id: int, num_per_class: int) -> LabelledSamples:
        """Return a client's samples: those it has drawn, those of clients alike, then new ones.

        Args:
            client_id: The client.
            num_per_class: Samples of each class.
        """
        alike = [c for c in self._kept if c != client_id and self.sampler.draws_alike(client_id, c)]
        found = [self._kept[c] for c in (client_id, *alike) if c in self._kept]
        known = sum(part.shape[1] for part in found)
        if known < num_per_class:
            purpose = f"single client, {known} known"
            lacking = num_per_class - known
            drawn = draw_samples(self.sampler, [client_id], self.num_classes, lacking, purpose)
            self._keep(client_id, drawn.samples)
            found.append(self._by_class(drawn.samples))
        samples = torch.cat(found, 1)[:, :num_per_class].flatten(0, 1)
        labels = torch.arange(self.num_classes).repeat_interleave(num_per_class)
        return LabelledSamples(samples, labels, self.num_classes)

    def _keep(self, client_id: int, samples: Tensor) -> None:
        """Keep more of a client's samples, (num_classes * n, C, H, W), class by class."""
        if not (self.max_kept and len(samples)):
            return
        parts = [self._kept[client_id]] if client_id in self._kept else []
        parts.append(self._by_class(samples))
        self._kept[client_id] = torch.cat(parts, 1)[:, : self.max_kept].clone()

    def _by_class(self, samples: Tensor) -> Tensor:
        return to_uint8(samples).unflatten(0, (self.num_classes, -1))
