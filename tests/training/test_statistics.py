"""Clients that send a mean and a covariance of what tells them apart, and no activations."""

import numpy as np
import pytest
import torch

from huscf.errors import HuscfError
from huscf.federation import RoundView
from huscf.training import Federation
from tests.conftest import make_batch, make_gan
from tests.engines.cases import Recorder

CUTS = {0: [1, 1, 1, 1], 1: [1, 1, 2, 1], 2: [1, 1, 1, 2], 3: [2, 1, 2, 1]}


def observe(monkeypatch=None, rounds=1, **options):
    """A round's messages, and what the policy is shown, of clients of two kinds."""
    wire, views = Recorder(), []
    module = make_gan(CUTS, depth=5, wire=wire)
    federation = Federation(observed_samples=12, **options)
    federation.begin(module)
    decide = federation.policy.decide
    federation.policy.decide = lambda view, memory: views.append(view) or decide(view, memory)
    for number in range(rounds):
        for step in range(3):
            batch = make_batch(CUTS, seed=10 * number + step)
            for client in (2, 3):
                samples, labels = batch[client]
                batch[client] = (255 - samples // 4, labels)
            federation.observe_batch(module, batch)
        decision = federation.decide(module)
        federation.apply(module, decision)
    return wire.messages, views, decision


def test_statistics_tell_what_activations_do_and_nothing_else_is_sent():
    messages, (plain,), one = observe()
    assert {m.kind for m in messages if m.topic == "discriminator_head"} == {"activations"}
    messages, (view,), other = observe(observe="statistics")
    assert isinstance(view, RoundView) and view.summary.client_ids == [0, 1, 2, 3]
    for name in ("means", "covariances", "counts"):
        np.testing.assert_array_equal(getattr(view.summary, name), getattr(plain.summary, name))
    assert (one.clusters, one.weights) == (other.clusters, other.weights)
    sent = [m for m in messages if m.kind != "blocks"]
    assert [(m.client_id, m.kind, m.topic) for m in sent] == [
        (client, "statistics", "discriminator") for client in CUTS
    ]
    size = view.summary.means.shape[1]
    assert {m.num_bytes for m in sent} == {8 * (size + size**2)}
    assert not view.summary.maps.any()  # mean maps stay at home


def test_noise_is_of_the_stated_strength_and_follows_from_the_seed():
    _, (plain,), _ = observe(observe="statistics")
    _, (one,), _ = observe(observe="statistics", statistics_noise=2.0)
    _, (other,), _ = observe(observe="statistics", statistics_noise=2.0)
    np.testing.assert_array_equal(one.summary.means, other.summary.means)
    assert np.abs(one.summary.means - plain.summary.means).min() > 0
    for client in range(4):
        size = plain.summary.means.shape[1]
        squares = (plain.summary.means[client] ** 2).sum() + np.trace(
            plain.summary.covariances[client]
        )
        added = np.trace(one.summary.covariances[client]) - np.trace(
            plain.summary.covariances[client]
        )
        # Twice the root mean square, squared, of every number; of twelve samples.
        assert added / size == pytest.approx(4 * squares / size, rel=0.5)


def test_noise_is_drawn_anew_every_round():
    batch_sums = []
    for noise in (0.0, 1.0):
        messages, *_ = observe(observe="statistics", statistics_noise=noise, rounds=2)
        sent = [
            m.tensors["values"] for m in messages if m.kind == "statistics" and m.client_id == 0
        ]
        batch_sums.append(sent)
    first, second = (
        (noised - plain) / plain.abs().mean() for plain, noised in zip(*batch_sums, strict=True)
    )
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"statistics_noise": 1.0}, "statistics_noise: is of statistics; set federation.observe"),
        ({"observe": "statistics", "divergence": "positions"}, "positions are of maps"),
        ({"observe": "statistics", "statistics_noise": -1.0}, "statistics_noise is -1.0, must be"),
    ],
)
def test_bad_options_are_refused(options, reason):
    with pytest.raises(HuscfError, match=reason):
        Federation(**options)


def test_sums_go_on_from_a_checkpoint():
    module = make_gan(CUTS, depth=5)
    whole, part = (Federation(observe="statistics", statistics_noise=0.5) for _ in range(2))
    whole.begin(module)
    whole.observe_batch(module, make_batch(CUTS))
    part.load_state_dict(whole.state_dict())
    part.begin(module)
    for federation in (whole, part):
        federation.observe_batch(module, make_batch(CUTS, seed=1))
    one, other = (f.observer.statistics.summarize() for f in (whole, part))
    np.testing.assert_array_equal(one.means, other.means)
    np.testing.assert_array_equal(one.covariances, other.covariances)
