import itertools

import numpy as np
import pytest

from huscf.planning import SearchSettings, search_plan
from huscf.planning.paper.exact_sweep import sweep_thresholds


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((15, 15, 14, 14, 14, 14, 14), 8.140490),
        ((14, 14, 14, 14, 14, 15, 15), 8.019813),
        ((143, 143, 143, 143, 143, 143, 142), 40.880),
        ((1429, 1429, 1429, 1429, 1428, 1428, 1428), 382.443),
    ],
)
def test_exact_and_genetic_find_the_published_optimum(make_paper_problem, counts, expected):
    problem = make_paper_problem(counts, latency_model="paper")
    precision = 5.1e-7 if expected < 10 else 5.1e-4
    for strategy in ("exact", "genetic"):
        result = search_plan(problem, SearchSettings(strategy))
        assert result.latency_s == pytest.approx(expected, abs=precision)
        assert result.gap == 0


@pytest.mark.parametrize("seed", range(5))
def test_sweep_equals_exhaustive_search_on_random_devices(make_paper_problem, seed):
    rng = np.random.default_rng(seed)
    counts = (*(int(n) for n in rng.integers(0, 6, size=4)), 1)
    problem = make_paper_problem(counts, latency_model="paper")
    best = sum(
        choices.tables.seconds(
            np.array(list(itertools.product(range(4), repeat=len(problem.units))))
        ).min()
        for choices in problem.networks
    )
    assert problem.latency_s(sweep_thresholds(problem)[None])[0] == pytest.approx(best, rel=1e-12)
