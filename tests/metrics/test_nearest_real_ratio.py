import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from huscf.errors import HuscfError
from huscf.metrics import NearestRealRatio, measure_nearest_distances


def test_distances_equal_scikit_learn(digits, monkeypatch):
    monkeypatch.setattr("huscf.metrics.nearest_real_ratio.CHUNK_ROWS", 100)
    train, test = digits.train.samples.flatten(1), digits.test.samples.flatten(1)
    expected = NearestNeighbors(n_neighbors=1).fit(train).kneighbors(test)[0][:, 0]
    found = measure_nearest_distances(digits.test.samples, digits.train.samples)
    torch.testing.assert_close(found, torch.as_tensor(expected).float())


def test_copies_are_found_exactly_and_fresh_real_samples_are_not_copies(digits):
    metric = NearestRealRatio(digits.train.samples, digits.test.samples[:180])
    metric.update(digits.train.samples[:100])
    assert metric.compute().item() == 0
    metric.reset()
    metric.update(digits.test.samples[180:])
    assert metric.compute().item() == pytest.approx(1, abs=0.1)


def test_uint8_and_float_samples_are_on_one_scale():
    bytes_ = torch.randint(256, (20, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    floats = bytes_.float() / 127.5 - 1
    found = measure_nearest_distances(bytes_[:5], floats[5:])
    torch.testing.assert_close(found, measure_nearest_distances(floats[:5], bytes_[5:]))
    # From all black to all white: 2 in each of 16 pixels.
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert measure_nearest_distances(ends[:1], ends[1:]).item() == pytest.approx(2 * 16**0.5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_degenerate_references_are_one_clear_line(digits):
    with pytest.raises(HuscfError, match="every test sample is also a training sample"):
        NearestRealRatio(digits.train.samples, digits.train.samples[:10])
    metric = NearestRealRatio(digits.train.samples, digits.test.samples)
    with pytest.raises(HuscfError, match="no samples"):
        metric.compute()
