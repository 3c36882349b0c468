"""Measuring a domain over several draws of its clients' samples."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from huscf.datamodules import DigitsDataModule
from huscf.errors import HuscfError
from huscf.metrics import ClassifierTraining, EvaluationSettings, JudgeSettings
from huscf.modules import evaluation
from huscf.modules.evaluation import DomainEvaluator, Effort, score_domain

SETTINGS = EvaluationSettings(downstream=ClassifierTraining(epochs=2, batch_size=32))
EFFORT = Effort(num_per_class=30, num_seeds=3, num_clients=2)
OF_REAL_DATA = ("judge_accuracy", "frechet_distance_real", "generation_score_real")
OF_SAMPLES = (
    "generation_score",
    "frechet_distance",
    "kernel_distance",
    "nearest_real_ratio",
    "downstream_precision",
)


@pytest.fixture
def evaluator(monkeypatch, tmp_path):
    training = ClassifierTraining(epochs=3, learning_rate=3e-3)
    settings = JudgeSettings(width=4, num_features=16, training=training)
    monkeypatch.setattr(evaluation, "JudgeSettings", lambda: settings)
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path))
    return DomainEvaluator(DigitsDataModule().domains["digits"])


def test_a_domain_without_test_samples_is_named():
    digits = DigitsDataModule().domains["digits"]
    domain = replace(
        digits, test_samples=digits.test_samples[:0], test_labels=digits.test_labels[:0]
    )
    with pytest.raises(HuscfError, match="domain digits: no test samples"):
        _ = DomainEvaluator(domain).real


class NoisyDigits(SimpleNamespace):
    """Stands where a module stands: real digits of the class that is asked for, with noise."""

    def sample(self, client_id, labels, generator):
        domain = self.domain
        first = torch.stack([(domain.train_labels == label).nonzero()[0, 0] for label in labels])
        clean = domain.train_samples[first].float() / 127.5 - 1
        noise = torch.randn(clean.shape, generator=generator)
        return (clean + 0.4 * noise).clamp(-1, 1)


def test_each_seed_draws_and_trains_anew_and_the_real_data_are_looked_at_once(
    evaluator, monkeypatch
):
    looked = []
    load = evaluation.load_judge
    monkeypatch.setattr(evaluation, "load_judge", lambda *a: looked.append(a) or load(*a))
    module = NoisyDigits(seed=5, domain=evaluator.domain)
    scores = score_domain(module, evaluator, [0, 1, 2], SETTINGS, EFFORT)
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


def test_a_seed_gives_the_same_figures_alone_and_other_runs_other_ones(evaluator):
    def measure(run_seed, seed):
        module = NoisyDigits(seed=run_seed, domain=evaluator.domain)
        return evaluator.measure(module, [0, 1, 2], 30, SETTINGS, seed)

    module = NoisyDigits(seed=5, domain=evaluator.domain)
    scores = score_domain(module, evaluator, [0, 1, 2], SETTINGS, EFFORT)
    assert measure(5, 2) == scores.by_seed[2]
    assert measure(5, 0) == scores.by_seed[0]
    assert measure(6, 0)["frechet_distance"] != scores.by_seed[0]["frechet_distance"]
