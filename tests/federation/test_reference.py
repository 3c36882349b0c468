"""Blocks that never train."""

import pytest
import torch
from torch import nn

from huscf.federation import ReferenceBlocks, ReferenceObserver
from huscf.models import LABELS, MAIN, ConditionalDiscriminator, SampleShape


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return ConditionalDiscriminator(SampleShape(1, 8, 3), width=4, depth=5)


def draw(count, seed=0):
    samples = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return {MAIN: samples, LABELS: torch.zeros(count, dtype=torch.long)}


def test_they_equal_the_networks_own_in_evaluation_mode_and_stay(discriminator):
    reference = ReferenceBlocks(list(discriminator)[:3])
    samples = draw(6)
    before = reference.run(samples, 0, None)[MAIN]
    expected = samples[MAIN]
    for index, block in enumerate(discriminator.eval()):
        if index < 3:
            labels = (torch.zeros(6, dtype=torch.long),) if index == 0 else ()
            expected = block(expected, *labels)
    assert torch.equal(before, expected)
    discriminator.train()
    for parameter in discriminator.parameters():
        nn.init.ones_(parameter)
    discriminator(samples[MAIN], torch.tensor([0, 1, 2, 0, 1, 2]))
    assert torch.equal(reference.run(samples, 0, None)[MAIN], before)
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_cut_changes_nothing(discriminator, cut):
    reference = ReferenceBlocks(list(discriminator)[:3])
    samples = draw(5)
    assert reference.names_needed(cut) == [MAIN]
    at_cut = {MAIN: reference.run(samples, 0, cut)[MAIN]}
    whole = reference.run(samples, 0, None)[MAIN]
    assert torch.equal(reference.run(at_cut, cut, None)[MAIN], whole)


def test_only_the_clients_that_have_not_shown_enough_are_observed(discriminator):
    observer, sent = ReferenceObserver(list(discriminator)[:3], num_samples=10), []

    def send(client, tensors):
        assert tensors.keys() == {MAIN}
        sent.append((client, tuple(tensors[MAIN].shape)))
        return None if client == 7 else tensors

    cuts = {1: 1, 4: 2, 7: 1}
    for seed in range(3):
        observer.observe({c: draw(6, seed) for c in cuts}, cuts, send)
    assert sent == [(1, (6, 4, 4, 4)), (4, (6, 8, 2, 2)), (7, (6, 4, 4, 4))] * 2 + [
        (7, (6, 4, 4, 4))
    ]
    assert {c: observer.statistics.num_samples(c) for c in cuts} == {1: 12, 4: 12, 7: 0}
    summary = observer.statistics.summarize()
    assert summary.client_ids == [1, 4] and summary.frame == "reference"
    # The same samples look the same whatever the cut.
    assert summary.means[0] == pytest.approx(summary.means[1], abs=1e-6)


def test_blocks_and_sums_go_through_a_checkpoint(discriminator):
    observer = ReferenceObserver(list(discriminator)[:3])
    observer.observe({0: draw(6)}, {0: 1}, lambda client, own: own)
    torch.manual_seed(1)
    other = ReferenceObserver(list(ConditionalDiscriminator(SampleShape(1, 8, 3), 4, 5))[:3])
    other.load_state_dict(observer.state_dict())
    for each in (observer, other):
        each.observe({0: draw(6, 1)}, {0: 2}, lambda client, own: own)
    one, two = observer.statistics.summarize(), other.statistics.summarize()
    assert (one.means == two.means).all() and one.counts.tolist() == [12]
