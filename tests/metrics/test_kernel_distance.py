import pytest
import torch

from huscf.errors import HuscfError
from huscf.metrics import KernelDistance, measure_kernel_distance


def brute_force(real, synthetic):
    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = [kernel(x, y) for x in real for y in synthetic]
    return within(real) + within(synthetic) - 2 * sum(between) / len(between)


def test_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(23, 6, generator=generator).double()
    synthetic = torch.randn(17, 6, generator=generator).double() * 1.5 + 0.3
    metric = KernelDistance()
    for batch in real.split(5):
        metric.update(batch, real=True)
    metric.update(synthetic, real=False)
    assert metric.compute().item() == pytest.approx(brute_force(real, synthetic), rel=1e-9)


def test_chunks_change_nothing(monkeypatch):
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    whole = measure_kernel_distance(features[:30], features[30:])
    monkeypatch.setattr("huscf.metrics.kernel_distance.CHUNK_ROWS", 7)
    assert measure_kernel_distance(features[:30], features[30:]).item() == pytest.approx(
        whole.item()
    )


def test_is_unbiased_for_equal_distributions():
    generator = torch.Generator().manual_seed(0)
    estimates = torch.stack(
        [measure_kernel_distance(*torch.randn(2, 40, 4, generator=generator)) for _ in range(200)]
    )
    assert estimates.min() < 0
    assert abs(estimates.mean()) < 3 * estimates.std() / 200**0.5


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_too_few_samples_is_one_clear_line():
    with pytest.raises(HuscfError, match="needs two samples a side, got 1 and 5"):
        measure_kernel_distance(torch.ones(1, 3), torch.ones(5, 3))
    with pytest.raises(HuscfError, match="needs real and synthetic"):
        KernelDistance().compute()
