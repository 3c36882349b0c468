import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from huscf.federation import block_tensors, mix_blocks, mix_tensors, mixing_matrix


def copies(count, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(3, 2, generator=stream), torch.randn(4, generator=stream)]
        for _ in range(count)
    ]


def clone(tensors):
    return [[t.clone() for t in each] for each in tensors]


@given(st.integers(1, 6), st.integers(0, 1000))
def test_mixing_equals_the_matrix_product(count, seed):
    stream = torch.Generator().manual_seed(seed)
    matrix = torch.rand(count, count, generator=stream, dtype=torch.float64)
    matrix /= matrix.sum(1, keepdim=True)
    before = copies(count, seed)
    after = clone(before)
    mix_tensors(after, matrix)
    for which in range(2):
        stacked = torch.stack([each[which].double().flatten() for each in before])
        expected = matrix @ stacked
        got = torch.stack([each[which].double().flatten() for each in after])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_the_identity_changes_nothing():
    before = copies(4)
    after = clone(before)
    mix_tensors(after, torch.eye(4, dtype=torch.float64))
    assert all(
        torch.equal(a, b)
        for x, y in zip(after, before, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_identical_copies_stay_identical_bit_for_bit():
    one = copies(1)[0]
    after = clone([one] * 5)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    mix_tensors(after, weights.repeat(5, 1))
    for each in after:
        assert all(torch.equal(a, b) for a, b in zip(each, one, strict=True))


def test_a_copy_that_nobody_weighs_may_hold_nan_and_is_healed():
    tensors = [[torch.tensor([float("nan")])], [torch.tensor([2.0])], [torch.tensor([4.0])]]
    row = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    mix_tensors(tensors, row.repeat(3, 1))
    assert [each[0].item() for each in tensors] == [3.0, 3.0, 3.0]


def test_counters_are_never_averaged():
    blocks = [nn.BatchNorm1d(2) for _ in range(2)]
    blocks[0].num_batches_tracked.fill_(7)
    blocks[1].running_mean.fill_(2.0)
    mix_tensors([block_tensors(b) for b in blocks], torch.full((2, 2), 0.5, dtype=torch.float64))
    assert [int(b.num_batches_tracked) for b in blocks] == [7, 0]
    assert blocks[0].running_mean.tolist() == [1.0, 1.0]


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
    alone = [tensor.clone() for tensor in block_tensors(blocks[1])]
    mix_blocks(blocks, matrix)
    together = torch.cat(samples)
    for block in (blocks[0], blocks[2]):
        torch.testing.assert_close(block[1].running_mean, together.mean(0))
        torch.testing.assert_close(block[1].running_var, together.var(0, correction=0))
    pairs = zip(block_tensors(blocks[1]), alone, strict=True)
    assert all(torch.equal(after, before) for after, before in pairs)


def test_spectral_norms_are_those_of_the_mixed_weights():
    torch.manual_seed(0)
    blocks = [nn.Sequential(spectral_norm(nn.Conv2d(4, 8, 3))) for _ in range(3)]
    matrix = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).double()
    alone = [tensor.clone() for tensor in block_tensors(blocks[2])]
    mix_blocks(blocks, matrix)
    for block in blocks:
        norm = torch.linalg.matrix_norm(block.eval()[0].weight.flatten(1), 2).item()
        assert norm == pytest.approx(1, abs=0.02)
    one, other = (block_tensors(block) for block in blocks[:2])
    assert all(map(torch.equal, one, other))
    assert all(map(torch.equal, alone, block_tensors(blocks[2])))


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
