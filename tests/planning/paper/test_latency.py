import numpy as np
import pytest

MINIMAL, MAXIMAL = (0, 0, 0, 0), (1, 1, 1, 1)


OPTIMUM = {
    "device1": MINIMAL,
    "device2": MAXIMAL,
    "device3": MAXIMAL,
    "device4": MAXIMAL,
    "device5": (0, 0, 1, 0),
    "device6": (1, 1, 1, 0),
    "device7": MAXIMAL,
}


SHIFTED_MIX = (14, 14, 14, 14, 14, 15, 15)


def choose(problem, cuts_of):
    """The solution in which each profile has the paper's four 0/1 cuts."""
    solution = np.zeros((len(problem.units), 2), dtype=np.int64)
    for row, unit in enumerate(problem.units):
        counts = [cut + 1 for cut in cuts_of(unit.profile.name)]
        for index, choices in enumerate(problem.networks):
            same = (choices.options == counts[2 * index : 2 * index + 2]).all(axis=1)
            solution[row, index] = np.flatnonzero(same)[0]
    return solution


@pytest.mark.parametrize(
    ("counts", "cuts_of", "expected"),
    [
        (None, lambda name: MINIMAL, 16.902813),
        (None, lambda name: (0, 0, 0, 1), 28.045187),
        (None, lambda name: MAXIMAL, 195.945778),
        (None, OPTIMUM.get, 8.140490),
        (SHIFTED_MIX, OPTIMUM.get, 8.019813),
    ],
)
def test_paper_model_reproduces_the_published_formulas(
    make_paper_problem, counts, cuts_of, expected
):
    options = {"latency_model": "paper"}
    problem = make_paper_problem(counts, **options) if counts else make_paper_problem(**options)
    solution = choose(problem, cuts_of)
    assert problem.latency_s(solution[None])[0] == pytest.approx(expected, abs=5.1e-7)
    assert sum(problem.stages(solution).values()) == pytest.approx(expected, abs=5.1e-7)
