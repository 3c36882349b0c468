"""Digits with a small judge, and what stands for a trained model."""

import pytest
import torch

from huscf.datamodules import DigitsDataModule
from huscf.metrics import ClassifierTraining, JudgeSettings
from huscf.metrics.evaluation import DomainEvaluator, domain_evaluator


class NoisyDigits:
    """A sampler and no more: real digits of the class that is asked for, with noise."""

    def __init__(self, seed, domain):
        self.seed = seed
        self.domain = domain

    def sample(self, client_id, labels, generator):
        domain = self.domain
        first = torch.stack([(domain.train_labels == label).nonzero()[0, 0] for label in labels])
        clean = domain.train_samples[first].float() / 127.5 - 1
        noise = torch.randn(clean.shape, generator=generator)
        return (clean + 0.4 * noise).clamp(-1, 1)

    def draws_alike(self, one, other):
        return one == other


@pytest.fixture
def small_judge(monkeypatch, tmp_path):
    """Judges that are trained in a second, in a cache of their own."""
    training = ClassifierTraining(epochs=3, learning_rate=3e-3)
    settings = JudgeSettings(width=4, num_features=16, training=training)
    monkeypatch.setattr(domain_evaluator, "JudgeSettings", lambda: settings)
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path))


@pytest.fixture
def data():
    """Two domains, four clients each."""
    return DigitsDataModule()


@pytest.fixture
def evaluator(small_judge, data):
    return DomainEvaluator(data.domains["digits"])
