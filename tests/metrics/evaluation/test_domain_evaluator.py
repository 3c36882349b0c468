"""Measuring a domain over several draws of its clients' samples."""

from dataclasses import replace

import pytest

from huscf.datamodules import DigitsDataModule
from huscf.errors import HuscfError
from huscf.metrics import ClassifierTraining, EvaluationSettings
from huscf.metrics.evaluation import (
    DomainEvaluator,
    Draws,
    Effort,
    domain_evaluator,
    score_domain,
)
from tests.metrics.evaluation.conftest import NoisyDigits

SETTINGS = EvaluationSettings(downstream=ClassifierTraining(epochs=2, batch_size=32))
EFFORT = Effort(num_per_class=30, num_seeds=3, num_clients=2, num_yardstick_clients=0)

OF_REAL_DATA = ("judge_accuracy", "frechet_distance_real", "generation_score_real")
OF_SAMPLES = (
    "generation_score",
    "frechet_distance",
    "kernel_distance",
    "nearest_real_ratio",
    "downstream_precision",
)


def test_a_domain_without_test_samples_is_named():
    digits = DigitsDataModule().domains["digits"]
    domain = replace(
        digits, test_samples=digits.test_samples[:0], test_labels=digits.test_labels[:0]
    )
    with pytest.raises(HuscfError, match="domain digits: no test samples"):
        _ = DomainEvaluator(domain).real


def test_each_seed_draws_and_trains_anew_and_the_real_data_are_looked_at_once(
    evaluator, data, monkeypatch
):
    looked = []
    load = domain_evaluator.load_judge
    monkeypatch.setattr(domain_evaluator, "load_judge", lambda *a: looked.append(a) or load(*a))
    sampler = NoisyDigits(5, evaluator.domain)
    scores = score_domain(sampler, evaluator, data.clients[:3], SETTINGS, EFFORT)
    assert len(looked) == 1
    assert list(scores.by_seed) == [0, 1, 2]
    every = list(scores.by_seed.values())
    for name in every[0]:
        assert scores.together[name] == pytest.approx(sum(figures[name] for figures in every) / 3)
    for name in OF_SAMPLES:
        assert len({figures[name] for figures in every}) == 3, name
    for name in OF_REAL_DATA:
        assert len({figures[name] for figures in every}) == 1, name
    assert list(scores.by_client) == [0, 1]
    assert not any(name.startswith("downstream") for name in scores.by_client[0])


def test_a_seed_gives_the_same_figures_alone_and_other_runs_other_ones(evaluator, data):
    def measure(run_seed, seed):
        sampler = NoisyDigits(run_seed, evaluator.domain)
        draws = Draws(sampler, 10)
        return evaluator.measure(
            draws.together([0, 1, 2], 30, seed), SETTINGS, draws.derive_seed(seed)
        )

    sampler = NoisyDigits(5, evaluator.domain)
    scores = score_domain(sampler, evaluator, data.clients[:3], SETTINGS, EFFORT)
    for seed in (0, 2):
        assert measure(5, seed).items() <= scores.by_seed[seed].items()
    assert measure(6, 0)["frechet_distance"] != scores.by_seed[0]["frechet_distance"]
