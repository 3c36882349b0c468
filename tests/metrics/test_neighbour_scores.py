import numpy
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from huscf.errors import HuscfError
from huscf.metrics import NeighbourScores, measure_neighbour_scores


def radii(features, k):
    return NearestNeighbors(n_neighbors=k + 1).fit(features).kneighbors(features)[0][:, -1]


def brute_force(real, synthetic, k):
    real, synthetic = numpy.asarray(real), numpy.asarray(synthetic)
    distances = cdist(real, synthetic)
    in_real = distances <= radii(real, k)[:, None]
    in_synthetic = distances <= radii(synthetic, k)[None]
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_synthetic.any(1).mean(),
        "density": in_real.sum(0).mean() / k,
        "coverage": in_real.any(1).mean(),
    }


def as_floats(scores):
    return {name: value.item() for name, value in scores.items()}


@pytest.mark.parametrize("k", [1, 5])
def test_equals_brute_force(k, monkeypatch):
    monkeypatch.setattr("huscf.metrics.neighbour_scores.CHUNK_ROWS", 13)
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(70, 3, generator=generator).double()
    synthetic = torch.randn(90, 3, generator=generator).double() * 0.5 + 0.4
    metric = NeighbourScores(k)
    metric.update(real, real=True)
    for batch in synthetic.split(20):
        metric.update(batch, real=False)
    found = as_floats(metric.compute())
    assert found == pytest.approx(brute_force(real, synthetic, k))
    assert found["precision"] > found["recall"]


def test_fidelity_and_diversity_are_told_apart():
    real = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    one_mode = real[:1] + 0.01 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    collapsed = as_floats(measure_neighbour_scores(real, one_mode))
    assert collapsed["precision"] == 1
    assert collapsed["recall"] < 0.05
    assert collapsed["coverage"] < 0.1
    elsewhere = as_floats(measure_neighbour_scores(real, real + 100))
    assert elsewhere == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    same = as_floats(measure_neighbour_scores(real, real))
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_too_few_samples_is_one_clear_line():
    with pytest.raises(HuscfError, match=r"k is 5, must be in .*3 real and 9 synthetic"):
        measure_neighbour_scores(torch.rand(3, 2), torch.rand(9, 2), k=5)
    with pytest.raises(HuscfError, match="need real and synthetic"):
        NeighbourScores().compute()
