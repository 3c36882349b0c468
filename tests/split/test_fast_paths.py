"""Clients side by side at the server, and other memory layouts, change rounding only."""

import copy

import pytest
import torch
from torch import nn

from huscf.models import can_stack, run_stacked
from huscf.modules import server
from huscf.split import u_pass
from tests.conftest import make_batch, make_gan, run_step

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1], 2: [2, 1, 1, 2], 3: [1, 1, 1, 1], 4: [2, 1, 1, 2]}


def gradients(cuts, batch, **kwargs):
    """Losses and gradients of a step in which no parameter moves.

    The server's running statistics follow its clients in the order of the groups; the test of
    stacked blocks compares them.
    """
    module = make_gan(cuts, depth=5, generator_lr=0.0, discriminator_lr=0.0, **kwargs)
    losses = run_step(module, batch)
    return losses, {name: each.grad for name, each in module.parties.named_parameters()}


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("server_gradient", ["uniform", "samples"])
def test_groups_equal_one_client_after_the_other(monkeypatch, norm, server_gradient):
    sizes = {c: 30 * (c + 1) for c in CUTS}
    settings = {"norm": norm, "server_gradient": server_gradient, "client_sizes": sizes}
    together = gradients(CUTS, make_batch(CUTS), **settings)
    monkeypatch.setattr(server, "STACKED_SAMPLES", 1)
    assert_same(gradients(CUTS, make_batch(CUTS), **settings), together)


def test_channels_last_equals_the_usual_layout(monkeypatch):
    monkeypatch.setattr(server, "STACKED_SAMPLES", 1)
    usual = gradients(CUTS, make_batch(CUTS))
    monkeypatch.setattr(u_pass, "LARGE_MAP", 0)
    assert_same(usual, gradients(CUTS, make_batch(CUTS)))


def test_groups_share_cuts_copy_and_batch_size_and_are_bounded(monkeypatch):
    module = make_gan(CUTS, depth=5)
    assert module.server.groups(dict.fromkeys(CUTS, 6)) == [[0, 1, 3], [2, 4]]
    assert module.server.groups({0: 6, 1: 5, 3: 6}) == [[0, 3], [1]]
    module.parties.set_clusters({0: 0, 1: 1, 2: 0, 3: 1, 4: 1}, per_cluster_server=True)
    assert module.server.groups(dict.fromkeys(CUTS, 6)) == [[0], [1, 3], [2], [4]]
    monkeypatch.setattr(server, "STACKED_SAMPLES", 12)
    module.parties.set_clusters(dict.fromkeys(CUTS, 0), per_cluster_server=True)
    assert module.server.groups(dict.fromkeys(CUTS, 6)) == [[0, 1], [2, 4], [3]]


def test_layers_that_may_mix_samples_are_not_stacked():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
    for layer in (nn.Dropout(), nn.Flatten(0), nn.BatchNorm1d(2, momentum=None), spectral):
        assert not can_stack([nn.Sequential(nn.Linear(2, 2), layer)])
    assert can_stack([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())])
    assert not can_stack([nn.BatchNorm1d(2).eval()])


def test_stacked_blocks_equal_separate_passes_in_order():
    stream = torch.Generator().manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), nn.ReLU()]
    separate = copy.deepcopy(blocks)
    inputs = torch.randn(4, 3, 2, 5, 5, generator=stream)
    stacked = run_stacked(blocks, inputs)
    for which in range(3):
        expected = run_stacked(separate, inputs[:, which : which + 1])
        torch.testing.assert_close(stacked[:, which : which + 1], expected)
    for one, other in zip(blocks[0].buffers(), separate[0].buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("poison", ["head", "tail"])
def test_a_client_with_nan_leaves_its_group_and_the_others_train_on(poison):
    cuts = {client: [1, 1, 1, 1] for client in range(3)}
    module = make_gan(cuts, on_nonfinite="drop")
    sick = module.client(1).segment("generator", poison)
    next(sick.parameters()).data.fill_(torch.nan)
    before = copy.deepcopy(module.server.state_dict())
    losses = run_step(module, make_batch(cuts))
    assert module.num_dropped == {0: 0, 1: 1, 2: 0}
    assert losses["discriminator"] > 0
    assert all(t.isfinite().all() for t in module.server.state_dict().values())
    assert any(not torch.equal(v, before[k]) for k, v in module.server.state_dict().items())
    assert all(module.client(c).is_finite() for c in (0, 2))
