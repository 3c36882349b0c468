import numpy as np

from huscf.planning import GeneticSettings, SearchSettings, search_genetically, search_plan
from huscf.planning.search.genetic import cluster_points
from tests.planning.planning_cases import build, draw_choices, draw_fleet


def test_all_different_clients_are_grouped_then_polished(small_subject):
    problem = build(small_subject, draw_fleet(40, 12))
    coarse = search_genetically(problem, 0, GeneticSettings(max_groups=8, polish_sweeps=0))
    fine = search_genetically(problem, 0, GeneticSettings(max_groups=8))
    score = problem.score(np.stack([coarse, fine]))
    assert score[1] <= score[0]
    assert score[1] < problem.score(draw_choices(problem, 500, 0)).min()


def test_same_seed_same_plan(small_subject):
    problem = build(small_subject, draw_fleet(5, 13))
    plans = [search_plan(problem, SearchSettings(seed=4)).plan for _ in range(2)]
    assert plans[0] == plans[1]


def test_warm_start_is_never_worse(small_subject):
    problem = build(small_subject, draw_fleet(6, 14))
    best = search_genetically(problem, 0)
    short = GeneticSettings(generations=1, polish_sweeps=0)
    warm = search_genetically(problem, 1, short, best[None])
    assert problem.score(warm[None])[0] <= problem.score(best[None])[0] * (1 + 1e-12)


def test_clusters_of_far_groups_are_found():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    truth = rng.integers(3, size=60)
    labels = cluster_points(centres[truth] + 0.1 * rng.normal(size=(60, 2)), 3, rng)
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 3
