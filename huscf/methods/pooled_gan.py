"""A GAN on everybody's data in one place: what distribution is compared with."""

from ..split import Placement
from ..wire import Kind
from .huscf_gan import HuscfGan


class PooledGan(HuscfGan):
    """One conditional GAN at the server, to which clients send their samples and labels.

    A reference row, not a method that anybody should use on private data: everything leaves the
    client. A step trains on the batches of all clients, each normalised by itself, so that it sees
    as much data a step as the other methods; the clients compute the losses.

    Args:
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = frozenset({"inputs", "outputs", "gradients", "blocks"})

    def placement(self, network: str) -> Placement:
        """Return that a client holds nothing."""
        return Placement(0, 0, max_client=0)
