"""Clients as points of a plane, so that people can see what the clusters were found in."""

from collections.abc import Mapping, Sequence

import numpy as np

Place = tuple[float, float]


def locate_clients(client_ids: Sequence[int], features: np.ndarray) -> dict[int, Place]:
    """Return each client's first two principal coordinates.

    Args:
        client_ids: One per row.
        features: (N, F) from `describe_clients`, principal coordinates in order.

    Returns:
        Places by client; the second coordinate is 0 where there is one component only.
    """
    plane = np.zeros((len(features), 2))
    plane[:, : min(2, features.shape[1])] = features[:, :2]
    return {client: (x, y) for client, (x, y) in zip(client_ids, plane.tolist(), strict=True)}


def align_places(places: Mapping[int, Place], previous: Mapping[int, Place]) -> dict[int, Place]:
    """Turn, and mirror where need be, a map so that it lies as the previous one does.

    Signs and order of principal components are arbitrary: without this, points would jump from
    one round to the next though no client has changed. Distances stay what they are.

    Args:
        places: The new map.
        previous: The previous map, of these or of other clients; with fewer than two in common
            the new map is returned as it is.

    Source: orthogonal Procrustes problem, Schoenemann 1966.
    """
    common = sorted(places.keys() & previous.keys())
    if len(common) < 2:
        return dict(places)
    from scipy.linalg import orthogonal_procrustes

    new, old = (np.array([each[client] for client in common]) for each in (places, previous))
    rotation, _ = orthogonal_procrustes(new - new.mean(0), old - old.mean(0))
    turned = np.array(list(places.values())) @ rotation
    return {client: (x, y) for client, (x, y) in zip(places, turned.tolist(), strict=True)}
