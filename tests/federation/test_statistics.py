import torch

from huscf.federation import ActivationStatistics


def test_streaming_means_equal_the_means_over_all_batches():
    batches = [torch.randn(size, 3, 2, 2) for size in (4, 7, 1)]
    statistics = ActivationStatistics(boundary=2)
    for batch in batches:
        statistics.update(5, batch)
    statistics.update(2, batches[0])
    together = torch.cat(batches)
    assert statistics.client_ids == [2, 5]
    torch.testing.assert_close(statistics.features()[1], together.mean(0).flatten(1))
    expected = together.mean((2, 3)).softmax(1).mean(0)
    torch.testing.assert_close(statistics.distributions()[1], expected)
    statistics.reset()
    assert statistics.client_ids == []


def test_memory_does_not_grow_with_batches_and_state_goes_round():
    statistics = ActivationStatistics(boundary=2)
    for _ in range(10):
        statistics.update(0, torch.randn(2, 3, 2, 2, requires_grad=True))
    state = statistics.state_dict()
    assert sum(t.numel() for part in ("sums", "distributions") for t in state[part].values()) == 15
    other = ActivationStatistics(boundary=2)
    other.load_state_dict(state)
    assert torch.equal(other.features(), statistics.features())
    assert not other.features().requires_grad
