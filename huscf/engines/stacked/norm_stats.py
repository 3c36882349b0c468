"""Batch statistics, kept until threads have come together and running statistics follow."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class NormStats:
    """Batch statistics of a norm layer that running statistics have yet to follow.

    Args:
        norms: The layer of each of K clients; the same one where it is shared.
        means: (K, C).
        variances: (K, C), unbiased.
    """

    norms: Sequence[_BatchNorm]
    means: Tensor
    variances: Tensor

    @property
    def is_shared(self) -> bool:
        """Whether the clients' layer is one and the same, or there is one client."""
        return len(self.norms) == 1 or self.norms[0] is self.norms[1]

    @torch.no_grad()
    def update_running_stats(self) -> None:
        """Update the running statistics, one client after the other."""
        norm, momentum, count = self.norms[0], self.norms[0].momentum, len(self.means)
        assert momentum is not None
        pairs = (("running_mean", self.means), ("running_var", self.variances))
        if not self.is_shared:
            for name, batch in pairs:
                running = [getattr(each, name) for each in self.norms]
                torch._foreach_lerp_(running, list(batch.to(running[0]).unbind()), momentum)
        else:
            shares = [momentum * (1 - momentum) ** (count - 1 - k) for k in range(count)]
            weights = torch.tensor(shares, dtype=self.means.dtype, device=self.means.device)
            for name, batch in pairs:
                mean = (weights[:, None] * batch).sum(0)  # a product would be rounded by autocast
                getattr(norm, name).mul_((1 - momentum) ** count).add_(mean)
        layers = dict.fromkeys(self.norms)
        counters = [each.num_batches_tracked for each in layers]
        known = [counter for counter in counters if counter is not None]
        if known:
            torch._foreach_add_(known, count // len(layers))
