"""Clients as points of a plane, so that people can see what the clusters were found in."""

from collections.abc import Mapping, Sequence

import numpy as np

Point2D = tuple[float, float]


def embed_2d(client_ids: Sequence[int], features: np.ndarray) -> dict[int, Point2D]:
    """Return each client's first two principal coordinates.

    Args:
        client_ids: One per row.
        features: (N, F) from `describe_clients`, principal coordinates in order.

    Returns:
        Points by client; the second coordinate is 0 where there is one component only.
    """
    plane = np.zeros((len(features), 2))
    plane[:, : min(2, features.shape[1])] = features[:, :2]
    return {client: (x, y) for client, (x, y) in zip(client_ids, plane.tolist(), strict=True)}


def align_embedding(
    points: Mapping[int, Point2D], previous: Mapping[int, Point2D]
) -> dict[int, Point2D]:
    """Turn, and mirror where need be, a map so that it lies as the previous one does.

    Signs and order of principal components are arbitrary: without this, points would jump from
    one round to the next though no client has changed. Distances stay what they are.

    Args:
        points: The new map.
        previous: The previous map, of these or of other clients; with fewer than two in common
            the new map is returned as it is.

    Source: orthogonal Procrustes problem, Schoenemann 1966.
    """
    common = sorted(points.keys() & previous.keys())
    if len(common) < 2:
        return dict(points)
    from scipy.linalg import orthogonal_procrustes

    new, old = (np.array([each[client] for client in common]) for each in (points, previous))
    rotation, _ = orthogonal_procrustes(new - new.mean(0), old - old.mean(0))
    turned = np.array(list(points.values())) @ rotation
    return {client: (x, y) for client, (x, y) in zip(points, turned.tolist(), strict=True)}
