"""Scoring every domain of a sampler that is no module."""

import pytest
import torch

from huscf.errors import HuscfError
from huscf.metrics.evaluation import Effort, ScoreBook
from tests.metrics.evaluation.conftest import NoisyDigits


class Diverged(NoisyDigits):
    def sample(self, client_id, labels, generator):
        drawn = super().sample(client_id, labels, generator)
        return drawn * float("nan") if client_id >= 4 else drawn


@pytest.fixture
def book(small_judge):
    return ScoreBook(Effort(num_per_class=6, num_seeds=2, num_clients=2))


def test_validation_is_one_quick_draw_of_the_domains_own_clients(book, data):
    book.begin_validation()
    figures = book.validate(NoisyDigits(5, data.domains["digits"]), data, "digits")
    (scores,) = book.scores
    assert figures == scores.together == scores.by_seed[0]
    assert (scores.domain, scores.num_clients, scores.by_client) == ("digits", 4, {})
    assert "downstream_accuracy" not in figures
    assert figures["label_accuracy"] > 0.2


def test_a_test_measures_seeds_and_clients_and_begins_anew(book, data):
    sampler = NoisyDigits(5, data.domains["digits"])
    for _ in range(2):
        book.begin_test()
        figures = book.test(sampler, data, "digits")
    (scores,) = book.scores
    assert list(scores.by_seed) == [0, 1]
    assert list(scores.by_client) == [0, 2]
    assert figures == scores.together
    assert 0 <= figures["downstream_accuracy"] <= 1


def test_a_domain_that_cannot_be_scored_is_warned_of_and_alone_it_ends_the_test(book, data):
    sampler = Diverged(5, data.domains["digits"])
    book.begin_validation()
    assert book.validate(sampler, data, "digits")
    assert book.validate(sampler, data, "negatives") == {}
    with pytest.warns(UserWarning, match="negatives: not scored: client 4 draws NaN or Inf"):
        book.close()
    book.begin_validation()
    book.validate(sampler, data, "negatives")
    with pytest.raises(HuscfError, match="client 4 draws NaN or Inf"):
        book.close()


def test_what_surrounds_a_score_does_not_change_its_precision(book, data):
    sampler = NoisyDigits(5, data.domains["digits"])
    plain = book.validate(sampler, data, "digits")
    with torch.autocast("cpu", torch.bfloat16):
        assert book.validate(sampler, data, "digits") == plain


def test_evaluators_are_made_once_for_a_domain_and_anew_for_other_data(book, data):
    first = book.evaluator(data, "digits")
    assert book.evaluator(data, "digits") is first
    other = type(data)()
    assert book.evaluator(other, "digits").domain is other.domains["digits"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1, 1), "model.num_evaluated_per_class is 0, must be >= 1"),
        ((1, 0, 1), "model.num_evaluated_seeds is 0, must be >= 1"),
        ((1, 1, -1), "model.num_evaluated_clients is -1, must be >= 0"),
        ((1, 1, 1, -1), "model.num_yardstick_clients is -1, must be >= 0"),
    ],
)
def test_an_effort_of_nothing_is_refused(numbers, message):
    with pytest.raises(HuscfError, match=message):
        Effort(*numbers)
