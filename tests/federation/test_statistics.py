import numpy as np
import pytest
import torch

from huscf.federation import ActivationStatistics


def step(statistics, batches):
    for client, batch in batches.items():
        statistics.update([client], batch.unsqueeze(1))
    statistics.fold()


def test_sums_equal_numpy_over_all_batches_at_once():
    stream = torch.Generator().manual_seed(0)
    batches = [torch.randn(size, 3, 4, 6, generator=stream) for size in (4, 7, 1)]
    other = torch.randn(5, 3, 4, 6, generator=stream) + 2
    statistics = ActivationStatistics(boundary=2, half_life=0)
    for batch in batches:
        step(statistics, {5: batch})
    step(statistics, {2: other})
    summary = statistics.summarize()
    assert summary.client_ids == [2, 5]
    together = torch.cat(batches).double().numpy()
    # Quarters of the map, row by row.
    quarters = together.reshape(12, 3, 2, 2, 2, 3).mean((3, 5)).reshape(12, 12)
    assert summary.means[1] == pytest.approx(quarters.mean(0), abs=1e-6)
    assert summary.counts.tolist() == [5, 12]
    assert summary.maps[1] == pytest.approx(together.mean(0).reshape(3, 24), abs=1e-6)
    second = other.double().numpy().reshape(5, 3, 2, 2, 2, 3).mean((3, 5)).reshape(5, 12)
    centred = np.vstack([quarters - quarters.mean(0), second - second.mean(0)])
    assert summary.covariance == pytest.approx(centred.T @ centred / (17 - 2), abs=1e-5)


def test_early_batches_count_most():
    statistics = ActivationStatistics(boundary=2, half_life=2.0)
    for value in (1.0, 2.0, 3.0):
        step(statistics, {0: torch.full((4, 1), value), 1: torch.randn(4, 1)})
    summary = statistics.summarize()
    weights = np.array([1, 2**-0.5, 2**-1])
    assert summary.means[0, 0] == pytest.approx(weights @ [1, 2, 3] / weights.sum())
    assert summary.counts[0] == pytest.approx(4 * weights.sum() ** 2 / (weights**2).sum())
    assert summary.maps[0, 0, 0] == pytest.approx(2.0)


def test_samples_that_are_seen_again_are_no_more():
    stream = torch.Generator().manual_seed(0)
    batches = {0: torch.randn(2, 3, generator=stream), 1: torch.randn(5, 3, generator=stream)}
    statistics = ActivationStatistics(boundary=2, half_life=0)
    for _ in range(4):
        step(statistics, batches)
    assert statistics.summarize().counts.tolist() == [8, 20]
    summary = statistics.summarize({0: 2, 1: 5, 2: 9})
    assert summary.counts.tolist() == [2, 5]
    centred = np.vstack([(batch - batch.mean(0)).numpy() for batch in batches.values()])
    # Unbiased: each client's own samples lose one degree of freedom.
    expected = 4 * centred.T @ centred / (8 * (1 - 1 / 2) + 20 * (1 - 1 / 5))
    assert summary.covariance == pytest.approx(expected, abs=1e-6)


def test_a_batch_that_is_not_finite_is_left_out():
    stream = torch.Generator().manual_seed(0)
    batches = {0: torch.randn(4, 3, generator=stream), 1: torch.randn(4, 3, generator=stream)}
    clean, other = ActivationStatistics(2), ActivationStatistics(2)
    step(clean, batches)
    step(other, batches)
    step(other, {2: torch.full((4, 3), torch.nan), 1: torch.full((4, 3), torch.inf)})
    assert other.client_ids == [0, 1]
    assert np.array_equal(other.summarize().covariance, clean.summarize().covariance)


def test_sequences_are_pooled_over_their_positions():
    values = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    statistics = ActivationStatistics(boundary=2)
    step(statistics, {0: values})
    summary = statistics.summarize()
    assert summary.means[0] == pytest.approx(values.mean((0, 2)).numpy(), abs=1e-6)
    assert summary.maps[0] == pytest.approx(values.mean(0).numpy(), abs=1e-6)


def test_the_order_of_clients_and_a_repeated_batch_change_nothing():
    batches = {client: torch.randn(4, 3) for client in range(3)}
    one, other = ActivationStatistics(2), ActivationStatistics(2)
    step(one, batches)
    other.update([1], torch.randn(4, 1, 3))
    step(other, dict(reversed(batches.items())))
    assert np.array_equal(one.summarize().covariances, other.summarize().covariances)
    assert np.array_equal(one.summarize().means, other.summarize().means)


def test_memory_does_not_grow_with_batches_and_state_goes_round():
    statistics = ActivationStatistics(boundary=2)
    for _ in range(10):
        step(
            statistics, {0: torch.randn(2, 3, 2, 2, requires_grad=True), 1: torch.randn(5, 3, 2, 2)}
        )
    state = statistics.state_dict()
    values = [value for known in state["clients"].values() for value in known.values()]
    sums = [value for value in values if torch.is_tensor(value)]
    assert sum(tensor.numel() for tensor in sums) == 2 * (12 + 12 + 144)
    assert not any(t.requires_grad for t in sums)
    other = ActivationStatistics(boundary=2)
    other.load_state_dict(state)
    batch = {0: torch.randn(2, 3, 2, 2)}
    for each in (statistics, other):
        step(each, batch)
    assert np.array_equal(other.summarize().covariance, statistics.summarize().covariance)
    statistics.reset()
    assert statistics.client_ids == []


def test_one_number_for_each_sample_is_a_feature_too():
    one, other = ActivationStatistics(0), ActivationStatistics(0)
    values = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    one.update([3, 5], values)
    other.update([3, 5], values.unsqueeze(2))
    for name in ("means", "covariance", "maps"):
        assert (getattr(one.summarize(), name) == getattr(other.summarize(), name)).all()
