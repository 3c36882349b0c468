"""Measuring as the paper does, and finding what it published."""

from types import SimpleNamespace

import pytest

from huscf.metrics import ClassifierTraining, JudgeSettings
from huscf.metrics.evaluation import (
    Effort,
    ScoreBook,
    domain_evaluator,
    find_published,
    paper_protocol,
    sample_figures,
)
from huscf.metrics.evaluation.paper_protocol import paper_effort, paper_settings
from tests.metrics.evaluation.conftest import NoisyDigits


def test_the_paper_draws_30_000_samples_and_trains_for_15_epochs():
    assert paper_effort(10, 3) == Effort(3_000, num_seeds=3)
    assert paper_effort(7, 1).num_per_class == 4_285
    settings = paper_settings()
    assert settings.downstream == ClassifierTraining(epochs=15)
    assert settings.max_downstream == 30_000


def test_a_test_by_the_papers_protocol_has_its_judge_its_samples_and_its_training(
    data, monkeypatch, tmp_path
):
    training = ClassifierTraining(epochs=1)
    plain = JudgeSettings(width=4, normalize=False, training=training)
    monkeypatch.setattr(domain_evaluator, "JudgeSettings", SimpleNamespace(plain=lambda: plain))
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path))
    monkeypatch.setattr(paper_protocol, "NUM_SAMPLES", 205)
    monkeypatch.setattr(paper_protocol, "EPOCHS", 2)
    trained = []
    measure = sample_figures.measure_downstream_utility
    monkeypatch.setattr(
        sample_figures, "measure_downstream_utility", lambda *a: trained.append(a) or measure(*a)
    )
    book = ScoreBook(
        Effort(6, num_seeds=2, num_clients=4, num_yardstick_clients=4), protocol="paper"
    )
    book.begin_test()
    figures = book.test(NoisyDigits(5, data.domains["digits"]), data, "digits")
    (scores,) = book.scores
    assert (scores.num_per_class, list(scores.by_seed), scores.by_client) == (20, [0, 1], {})
    assert [(len(samples), training.epochs) for samples, _, training, _ in trained] == [
        (200, 2)
    ] * 2
    assert book.plain_judge
    assert {"downstream_accuracy", "downstream_accuracy_pooled", "generation_score"} <= set(figures)
    book.begin_validation()
    book.validate(NoisyDigits(5, data.domains["digits"]), data, "digits")
    assert book.scores[0].num_per_class == 6  # validation stays quick


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        (["mnist"], [1, 2]),
        (["mnist", "fashion_mnist"], [3, 3, 4, 4, 5, 5]),
        (["kmnist", "mnist", "notmnist", "fashion_mnist"], [6] * 4),
        (["fashion_mnist"], [3, 4, 5, 6]),
        (["kmnist", "digits"], [6]),
        (["digits"], []),
    ],
)
def test_the_scenarios_of_the_same_domains_are_found_or_else_all_that_have_one(domains, expected):
    found = find_published(domains)
    assert [result.scenario for result in found] == expected
    assert {result.domain for result in found} <= set(domains)


def test_published_figures_are_those_of_the_released_code():
    (result,) = [r for r in find_published(["mnist", "fashion_mnist"]) if r[:3:2] == (5, "mnist")]
    assert (result.accuracy, result.score) == (0.9615, 9.95)
    assert result.what == "two domains, highly non-IID"
