"""Who goes on with whose blocks where a round passes them on instead of averaging them."""

from collections.abc import Mapping

import numpy as np


def draw_ring(clusters: Mapping[int, int], stream: np.random.Generator) -> dict[int, int]:
    """Return for every client the one whose blocks it gets: rings of random order.

    Within a cluster nobody keeps its own, and everybody's are kept by somebody. A client alone in
    its cluster keeps its own.

    Args:
        clusters: Cluster by client.
        stream: Source of the order.
    """
    givers: dict[int, int] = {}
    for cluster in sorted(set(clusters.values())):
        members = [client for client in sorted(clusters) if clusters[client] == cluster]
        order = [members[place] for place in stream.permutation(len(members))]
        givers.update(zip(order, order[1:] + order[:1], strict=True))
    return givers
