"""A simulated client: its data of the step, its heads and tails, and nothing of the server."""

import copy

from torch import Tensor, nn

from ..models import Network
from ..split import NETWORK_NAMES, ClientPlan, NetworkName, is_finite
from .segment import Segment


class Client(nn.Module):
    """Holds the outer blocks of both networks, and privately samples, labels and noise.

    Args:
        plan: The client's line in the cut plan.
        networks: The full networks to copy the client's blocks from.
    """

    def __init__(self, plan: ClientPlan, networks: dict[NetworkName, Network]) -> None:
        super().__init__()
        self.client_id = plan.client_id
        for network in NETWORK_NAMES:
            blocks = networks[network]
            count = len(blocks)
            head = range(plan.cuts.head(network))
            tail = range(count - plan.cuts.tail(network), count)
            self.add_module(f"{network}_head", _copy_blocks(blocks, head))
            self.add_module(f"{network}_tail", _copy_blocks(blocks, tail))
        self.forget()

    def segment(self, network: NetworkName, end: str) -> Segment:
        """Return a segment; end is "head" or "tail"."""
        segment = self.get_submodule(f"{network}_{end}")
        assert isinstance(segment, Segment)
        return segment

    def blocks(self, network: NetworkName) -> dict[int, nn.Module]:
        """Return the blocks that the client holds, by index in the full network."""
        segments = (self.segment(network, "head"), self.segment(network, "tail"))
        return {index: segment.block(index) for segment in segments for index in segment.indices}

    def is_finite(self) -> bool:
        """Return whether no parameter or buffer is NaN or Inf."""
        return all(is_finite(t) for t in [*self.parameters(), *self.buffers()])

    def hold(self, samples: Tensor, labels: Tensor, noise: Tensor) -> None:
        """Take a step's private tensors.

        Args:
            samples: (B, C, H, W) real samples in [-1, 1].
            labels: (B,) their labels, also asked of the fakes.
            noise: (B, latent_dim).
        """
        self.samples: Tensor | None = samples
        self.labels: Tensor | None = labels
        self.noise: Tensor | None = noise

    def forget(self) -> None:
        """Drop the step's private tensors."""
        self.samples = self.labels = self.noise = None


def _copy_blocks(network: Network, indices: range) -> Segment:
    return Segment({index: copy.deepcopy(network[index]) for index in indices})
