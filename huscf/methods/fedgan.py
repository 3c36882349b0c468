"""FedGAN: every client trains a whole GAN, and both networks are averaged."""

from ..split import Placement
from ..wire import Kind
from .huscf_gan import HuscfGan


class FedGan(HuscfGan):
    """A conditional GAN at every client, averaged at every round's end.

    Nothing lies at the server and nothing crosses in a step: only the averaged blocks of both
    networks do, the discriminator's among them, which has seen the client's data. Who is averaged,
    with which weights and how often, the federation says: federation.rule OneCluster and
    federation.weighting samples are the published method (configs/methods/fedgan.yaml).

    Source: Rasouli, Sun and Rajagopal 2020, arXiv:2006.07228. Deviation: the discriminator and the
        generator are updated one after the other, as practised, not from the same iterate.

    Args:
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = frozenset({"blocks"})

    def placement(self, network: str) -> Placement:
        """Return that the server holds nothing."""
        return Placement(min_server=0, max_server=0)


class FeGan(FedGan):
    """FedGAN whose clients tell how many samples of each class they have.

    The server weighs them by that, and may average balanced groups only: set federation.weighting
    to huscf.federation.FeganWeights (configs/methods/fegan.yaml).

    Source: Guirguis et al., Middleware 2020.

    Args:
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = frozenset({"blocks", "label_counts"})
