"""Clients side by side at the server, and other memory layouts, change rounding only."""

import pytest
import torch

from huscf.engines.stacked import layer_rules, microbatch
from huscf.engines.stacked import step as stacked_step
from tests.conftest import make_batch, make_gan, run_step
from tests.engines.cases import assert_same, step_gradients

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 1, 1], 2: [2, 1, 1, 2], 3: [1, 1, 1, 1], 4: [2, 1, 1, 2]}


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("server_gradient", ["uniform", "samples"])
def test_groups_equal_one_client_after_the_other(monkeypatch, norm, server_gradient):
    sizes = {c: 30 * (c + 1) for c in CUTS}
    settings = {"norm": norm, "server_gradient": server_gradient, "client_sizes": sizes}
    together = step_gradients(CUTS, make_batch(CUTS), **settings)
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 1)
    assert_same(step_gradients(CUTS, make_batch(CUTS), **settings), together)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_chunks_equal_all_at_once_though_passes_are_made_anew(monkeypatch, norm):
    sizes = {c: 30 * (c + 1) for c in CUTS}
    settings = {"norm": norm, "server_gradient": "samples", "client_sizes": sizes}
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 12)
    at_once = step_gradients(CUTS, make_batch(CUTS), **settings)
    monkeypatch.setattr(stacked_step, "CHUNK_SAMPLES", 1)
    assert_same(step_gradients(CUTS, make_batch(CUTS), **settings), at_once)


def test_chunks_count_running_statistics_once(monkeypatch):
    def counters():
        module = make_gan(CUTS, depth=5)
        run_step(module, make_batch(CUTS))
        state = module.parties.state_dict()
        return {k: int(v) for k, v in state.items() if k.endswith("num_batches_tracked")}

    at_once = counters()
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 12)
    monkeypatch.setattr(stacked_step, "CHUNK_SAMPLES", 1)
    assert counters() == at_once
    head = "clients.0.trained.generator_head.blocks.0.flat_norm.num_batches_tracked"
    assert at_once[head] == 1


def test_channels_last_equals_the_usual_layout(monkeypatch):
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 1)
    usual = step_gradients(CUTS, make_batch(CUTS))
    monkeypatch.setattr(layer_rules, "LARGE_MAP", 0)
    assert_same(usual, step_gradients(CUTS, make_batch(CUTS)))


def test_optimisers_move_the_same_weights_whatever_the_layout_of_gradients(monkeypatch):
    # Fused optimisers ignore strides; without norms no gradient is zero but for rounding.
    def train():
        module = make_gan({0: [1, 1, 1, 1]}, depth=5, norm="none", weight_std=0.2)
        for step in range(3):
            run_step(module, make_batch([0], seed=step), step)
        parameters = dict(module.parties.named_parameters())
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}

    usual = train()
    monkeypatch.setattr(layer_rules, "LARGE_MAP", 0)
    for name, value in train().items():
        torch.testing.assert_close(value, usual[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_separate_layers_as_one_operation_equal_a_loop_over_them(monkeypatch, limit):
    for name in ("NARROW_CONVOLUTION", "NARROW_TRANSPOSED", "SMALL_LINEAR"):
        monkeypatch.setattr(layer_rules, name, limit)
    together = step_gradients(CUTS, make_batch(CUTS))
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 1)
    assert_same(step_gradients(CUTS, make_batch(CUTS)), together)
