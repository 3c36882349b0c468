"""Maps of clients: coordinates, and that maps of different rounds lie alike."""

import numpy as np
import pytest

from huscf.federation import align_embedding, embed_2d


def as_array(points, clients):
    return np.array([points[c] for c in clients])


def make_map(seed, clients):
    points = np.random.default_rng(seed).normal(size=(len(clients), 2))
    return dict(zip(clients, map(tuple, (points - points.mean(0)).tolist()), strict=True))


def test_points_are_the_first_two_coordinates():
    features = np.arange(12.0).reshape(4, 3)
    points = embed_2d([3, 5, 6, 8], features)
    assert points == {3: (0, 1), 5: (3, 4), 6: (6, 7), 8: (9, 10)}
    assert embed_2d([], np.zeros((0, 1))) == {}


def test_two_clients_lie_on_a_line():
    assert embed_2d([0, 1], np.array([[1.5], [-1.5]])) == {0: (1.5, 0), 1: (-1.5, 0)}


@pytest.mark.parametrize("mirrored", [1.0, -1.0])
@pytest.mark.parametrize("angle", [0.3, np.pi / 2, np.pi])
def test_a_turned_and_mirrored_map_is_turned_back(angle, mirrored):
    clients = list(range(7))
    old = make_map(0, clients)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = as_array(old, clients) @ turn * [1, mirrored]
    aligned = align_embedding(dict(enumerate(map(tuple, moved.tolist()))), old)
    assert as_array(aligned, clients) == pytest.approx(as_array(old, clients))


def test_distances_stay_and_points_come_as_near_as_any_turning_brings_them():
    clients = list(range(7))
    old, new = make_map(0, clients), make_map(1, clients)
    aligned = as_array(align_embedding(new, old), clients)
    before, target = as_array(new, clients), as_array(old, clients)
    assert np.linalg.norm(aligned[:, None] - aligned, axis=2) == pytest.approx(
        np.linalg.norm(before[:, None] - before, axis=2)
    )
    best = np.inf
    for angle in np.linspace(0, 2 * np.pi, 721):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for mirror in (1, -1):
            best = min(best, np.linalg.norm(before @ turn * [1, mirror] - target))
    assert np.linalg.norm(aligned - target) <= best + 1e-9


def test_clients_that_come_and_go_do_not_disturb():
    clients = list(range(8))
    whole = make_map(0, clients)
    mirrored = {c: (-x, y) for c, (x, y) in whole.items() if c != 2}
    previous = {c: point for c, point in whole.items() if c != 5}
    aligned = align_embedding(mirrored, previous)
    assert aligned.keys() == mirrored.keys()
    for client in aligned:
        assert aligned[client] == pytest.approx(whole[client])


def test_without_two_common_clients_a_map_stays_as_it_is():
    new = make_map(0, [0, 1, 2])
    assert align_embedding(new, {}) == new
    assert align_embedding(new, {2: (1.0, 1.0), 9: (0.0, 0.0)}) == new
    assert align_embedding({}, new) == {}
