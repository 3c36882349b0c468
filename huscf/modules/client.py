"""A simulated client: its data of the step, its heads and tails, and nothing of the server."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from ..models import Network
from ..split import ClientCuts, ClientPlan, NetworkName, is_finite
from .segment import Segment, clone_block


class Client(nn.Module):
    """Holds the outer blocks of both networks, and privately samples, labels and noise.

    Args:
        plan: The client's line in the cut plan.
        networks: The full networks, one or both, to copy the client's blocks from.
    """

    def __init__(self, plan: ClientPlan, networks: Mapping[NetworkName, Network]) -> None:
        super().__init__()
        self.client_id = plan.client_id
        self.network_names = tuple(networks)
        for network in networks:
            own = held_indices(plan.cuts, network, len(networks[network]))
            blocks = (
                copy.deepcopy(block) if index in own else block
                for index, block in enumerate(networks[network])
            )
            self._hold_blocks(plan.cuts, network, Network(blocks))
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

    def take_over(
        self, cuts: ClientCuts, network: NetworkName, before: Network
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Hold exactly the blocks of new cuts; those that it did not have come as clones.

        Args:
            cuts: The new cuts.
            network: Which network.
            before: The client's whole network under the old cuts.

        Returns:
            For every parameter of a clone the parameter that it was cloned from.
        """
        own = self.blocks(network)
        wanted = held_indices(cuts, network, len(before))
        cloned_from: dict[nn.Parameter, nn.Parameter] = {}
        blocks = [
            clone_block(block, cloned_from) if index in wanted and index not in own else block
            for index, block in enumerate(before)
        ]
        self._hold_blocks(cuts, network, Network(blocks))
        return cloned_from

    def is_finite(self) -> bool:
        """Return whether no parameter or buffer is NaN or Inf."""
        return all(is_finite(t) for t in [*self.parameters(), *self.buffers()])

    @property
    def is_stackable(self) -> bool:
        """Whether this client's blocks may run beside those of others."""
        return all(
            self.segment(network, end).is_stackable
            for network in self.network_names
            for end in ("head", "tail")
        )

    def hold(
        self, samples: Tensor, labels: Tensor, noise: Tensor, wrong_labels: Tensor | None = None
    ) -> None:
        """Take a step's private tensors.

        Args:
            samples: (B, C, H, W) real samples in [-1, 1].
            labels: (B,) their labels, also asked of the fakes.
            noise: (B, latent_dim).
            wrong_labels: (B,) labels that do not fit the samples, but where they equal `labels`;
                None in a step without mismatched samples.
        """
        self.samples: Tensor | None = samples
        self.labels: Tensor | None = labels
        self.noise: Tensor | None = noise
        self.wrong_labels = wrong_labels

    def forget(self) -> None:
        """Drop the step's private tensors."""
        self.samples = self.labels = self.noise = self.wrong_labels = None

    def _hold_blocks(self, cuts: ClientCuts, network: NetworkName, blocks: Network) -> None:
        count = len(blocks)
        head, tail = cuts.head(network), count - cuts.tail(network)
        ends = {"head": range(head), "tail": range(tail, count)}
        for end, indices in ends.items():
            segment = Segment({index: blocks[index] for index in indices})
            self.add_module(f"{network}_{end}", segment)


def held_indices(cuts: ClientCuts, network: NetworkName, num_blocks: int) -> set[int]:
    """Return the indices of the blocks that a client with these cuts holds."""
    return set(range(num_blocks)) - set(cuts.server_range(network, num_blocks))
