import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from huscf.federation import mix_states, mixing_matrix


def copies(count, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return [
        {"a": torch.randn(3, 2, generator=stream), "b": torch.randn(4, generator=stream)}
        for _ in range(count)
    ]


def mix(states, matrix):
    """Every copy's state from now on: new tensors, and those that it keeps."""
    before = [{name: tensor.clone() for name, tensor in each.items()} for each in states]
    mixed = mix_states(states, matrix)
    for own, old in zip(states, before, strict=True):
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, old[name], rtol=0, atol=0, equal_nan=True)
    return [{**own, **(new or {})} for own, new in zip(states, mixed, strict=True)]


def state_of(block):
    return {**dict(block.named_parameters()), **dict(block.named_buffers())}


def is_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_mixing_equals_the_matrix_product(count, seed):
    stream = torch.Generator().manual_seed(seed)
    matrix = torch.rand(count, count, generator=stream, dtype=torch.float64)
    matrix /= matrix.sum(1, keepdim=True)
    before = copies(count, seed)
    after = mix(before, matrix)
    for name in ("a", "b"):
        stacked = torch.stack([each[name].double().flatten() for each in before])
        got = torch.stack([each[name].double().flatten() for each in after])
        torch.testing.assert_close(got, matrix @ stacked, rtol=1e-5, atol=1e-6)


def test_the_identity_changes_nothing():
    assert mix_states(copies(4), torch.eye(4, dtype=torch.float64)) == [None] * 4


def test_identical_copies_stay_identical_bit_for_bit():
    one = copies(1)[0]
    weights = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    assert all(is_equal(each, one) for each in mix([one] * 5, weights.repeat(5, 1)))


def test_equal_rows_are_computed_once():
    weights = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    first, second, third = mix_states(copies(3), weights.repeat(3, 1))
    assert first is second is third


def test_a_copy_that_nobody_weighs_may_hold_nan_and_is_healed():
    states = [{"a": torch.tensor([value])} for value in (float("nan"), 2.0, 4.0)]
    row = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    assert [each["a"].item() for each in mix(states, row.repeat(3, 1))] == [3.0, 3.0, 3.0]


def test_counters_are_never_averaged():
    blocks = [nn.BatchNorm1d(2) for _ in range(2)]
    blocks[0].num_batches_tracked.fill_(7)
    blocks[1].running_mean.fill_(2.0)
    after = mix([*map(state_of, blocks)], torch.full((2, 2), 0.5, dtype=torch.float64))
    assert [int(each["num_batches_tracked"]) for each in after] == [7, 0]
    assert after[0]["running_mean"].tolist() == [1.0, 1.0]


def test_running_statistics_are_those_of_the_mixture():
    stream = torch.Generator().manual_seed(0)
    sizes, blocks = torch.tensor([40, 10, 50]), []
    samples = [
        (which + 1) * torch.randn(int(size), 2, generator=stream) + 5 * which
        for which, size in enumerate(sizes)
    ]
    for own in samples:
        block = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        block[1].running_mean.copy_(own.mean(0))
        block[1].running_var.copy_(own.var(0, correction=0))
        blocks.append(block)
    weights = sizes.double() / sizes.sum()
    matrix = torch.stack([weights, torch.tensor([0.0, 1.0, 0.0]).double(), weights])
    before = [*map(state_of, blocks)]
    after = mix(before, matrix)
    together = torch.cat(samples)
    for state in (after[0], after[2]):
        torch.testing.assert_close(state["1.running_mean"], together.mean(0))
        torch.testing.assert_close(state["1.running_var"], together.var(0, correction=0))
    assert is_equal(after[1], before[1])


def test_clients_that_left_the_block_are_represented_by_the_servers_copy():
    # Clients 0 and 1 share the server's copy "s", 2 has its own; cluster {0, 1, 2}; 3 is alone.
    holders = {0: "s", 1: "s", 2: "c2", 3: "c3"}
    users = {"s": [0, 1], "c2": [2], "c3": [3]}
    clusters = {0: 0, 1: 0, 2: 0, 3: 1}
    weights = {0: 0.2, 1: 0.3, 2: 0.5, 3: 1.0}
    matrix = mixing_matrix(holders, users, clusters, weights)
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert torch.allclose(matrix, expected.double())


def test_a_server_copy_that_two_clusters_share_takes_the_mean_of_its_users_averages():
    holders = {0: "s", 1: "c1", 2: "s"}
    users = {"s": [0, 2], "c1": [1]}
    clusters = {0: 0, 1: 0, 2: 1}
    weights = {0: 0.75, 1: 0.25, 2: 1.0}
    matrix = mixing_matrix(holders, users, clusters, weights)
    expected = torch.tensor([[(0.75 + 1.0) / 2, 0.25 / 2], [0.75, 0.25]])
    assert torch.allclose(matrix, expected.double())


@pytest.mark.parametrize("clusters", [{0: 0, 1: 0, 2: 0}, {0: 0, 1: 1, 2: 1}, {0: 2, 1: 0, 2: 1}])
def test_rows_sum_to_one(clusters):
    sizes = {c: sum(v == clusters[c] for v in clusters.values()) for c in clusters}
    weights = {c: 1 / sizes[c] for c in clusters}
    matrix = mixing_matrix({0: "s", 1: "s", 2: "c"}, {"s": [0, 1], "c": [2]}, clusters, weights)
    assert torch.allclose(matrix.sum(1), torch.ones(2, dtype=torch.float64))
