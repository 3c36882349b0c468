"""HuSCF-GAN whose clients choose their clusters, as IFCA's do."""

from ..wire import Kind
from .huscf_gan import HuscfGan


class IfcaGan(HuscfGan):
    """HuSCF-GAN for clusters that clients choose: they tell the server which fits them best.

    Set federation.rule to huscf.federation.IfcaClusters (configs/methods/ifca.yaml).

    Args:
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = HuscfGan.kinds | {"figures"}
