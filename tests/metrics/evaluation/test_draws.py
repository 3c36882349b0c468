"""What figures of one evaluation share: samples are drawn once."""

import pytest
import torch

from huscf.metrics import EvaluationSettings
from huscf.metrics.evaluation import Draws, Effort, draw_samples, score_domain
from huscf.models import to_uint8
from tests.metrics.evaluation.conftest import NoisyDigits

NUM_CLASSES = 3


class Counter:
    """Draws 2 x 2 pixels that tell the client and how many it drew before; notes who is asked."""

    seed = 5

    def __init__(self, alike=()):
        self.alike = alike
        self.asked = []
        self.drawn = {}

    def sample(self, client_id, labels, stream):
        self.asked.append((client_id, len(labels) // NUM_CLASSES))
        first = self.drawn.get(client_id, 0)
        self.drawn[client_id] = first + len(labels)
        values = 100 * client_id + first + torch.arange(len(labels))
        return (values / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()

    def draws_alike(self, one, other):
        return one == other or {one, other} <= set(self.alike)


def numbers(samples):
    return to_uint8(samples.samples)[:, 0, 0, 0].view(NUM_CLASSES, -1).tolist()


def test_all_together_draw_what_draw_samples_draws(data):
    sampler = NoisyDigits(5, data.domains["digits"])
    drawn = Draws(sampler, 10, max_kept=4).together([0, 1, 2], 7, seed=1)
    again = draw_samples(sampler, [0, 1, 2], 10, 7, "evaluation 1")
    assert torch.equal(drawn.samples, again.samples)
    assert torch.equal(drawn.labels, again.labels)


def test_a_single_client_s_samples_are_its_own_then_new_ones():
    sampler = Counter()
    draws = Draws(sampler, NUM_CLASSES, max_kept=10)
    for seed in range(2):
        draws.together([0, 1], 4, seed)
    assert numbers(draws.single(1, 3)) == [[100, 101, 106], [102, 103, 108], [104, 105, 110]]
    assert sampler.asked == [(0, 2), (1, 2)] * 2
    six = draws.single(1, 6)
    assert [row[:4] for row in numbers(six)] == [
        [100, 101, 106, 107],
        [102, 103, 108, 109],
        [104, 105, 110, 111],
    ]
    assert [row[4:] for row in numbers(six)] == [[112, 113], [114, 115], [116, 117]]
    assert six.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert sampler.asked[4:] == [(1, 2)]
    assert numbers(draws.single(1, 6)) == numbers(six)
    assert len(sampler.asked) == 5


def test_clients_with_the_same_networks_take_each_other_s_samples():
    sampler = Counter(alike=(0, 1))
    draws = Draws(sampler, NUM_CLASSES, max_kept=10)
    draws.together([0, 1, 2], 6)
    del sampler.asked[:]
    assert numbers(draws.single(1, 4)) == [[100, 101, 0, 1], [102, 103, 2, 3], [104, 105, 4, 5]]
    assert sampler.asked == []
    draws.single(2, 4)
    assert sampler.asked == [(2, 2)]


def test_no_more_is_kept_than_asked_for():
    sampler = Counter()
    draws = Draws(sampler, NUM_CLASSES)
    draws.together([0], 4)
    draws.single(0, 2)
    assert sampler.asked == [(0, 4), (0, 2)]
    few = Draws(sampler, NUM_CLASSES, max_kept=3)
    few.together([0], 4)
    few.single(0, 5)
    assert sampler.asked[2:] == [(0, 4), (0, 2)]


def test_members_behind_the_last_sample_draw_nothing():
    sampler = Counter()
    drawn = Draws(sampler, NUM_CLASSES, max_kept=2).together([0, 1, 2], 2)
    assert sampler.asked == [(0, 1), (1, 1)]
    assert drawn.labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(("num_seeds", "drawn"), [(1, 10 * (8 + 2 * 6)), (4, 10 * 4 * 8)])
def test_an_evaluation_draws_only_what_lacks(evaluator, data, monkeypatch, num_seeds, drawn):
    sampler = NoisyDigits(5, evaluator.domain)
    counts, sample = [], sampler.sample
    monkeypatch.setattr(sampler, "sample", lambda c, y, g: counts.append(len(y)) or sample(c, y, g))
    owners = [client for client in data.clients if client.domain.name == "digits"]
    effort = Effort(8, num_seeds, num_clients=2, num_yardstick_clients=1)
    score_domain(sampler, evaluator, owners, EvaluationSettings.quick(), effort)
    assert sum(counts) == drawn
