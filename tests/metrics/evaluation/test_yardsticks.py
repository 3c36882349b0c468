"""What samples are worth beside real data, on digits and on sets made to be told apart."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from huscf.metrics import ClassifierTraining, LabelledSamples, RealData
from huscf.metrics.evaluation import Effort, EvaluationSettings, Yardsticks, score_domain
from huscf.metrics.evaluation import yardsticks as module
from huscf.metrics.evaluation.yardsticks import mix
from tests.metrics.evaluation.conftest import NoisyDigits

TRAINING = ClassifierTraining(epochs=3, batch_size=20)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trained_on(monkeypatch):
    """The data and steps of every classifier that was trained."""
    seen = []
    for place in ("huscf.metrics.utility_cache", "huscf.metrics.evaluation.yardsticks"):
        monkeypatch.setattr(
            f"{place}.measure_downstream_utility",
            lambda data, test, training, seed, steps, device: (
                seen.append((data, steps)) or {"accuracy": len(data) / 1000, "f1": 0.5}
            ),
        )
    return seen


def owner(client_id, indices):
    return SimpleNamespace(client_id=client_id, indices=np.asarray(indices))


def make_separable(count, seed):
    """Two classes, dark and bright, with noise: (count, 1, 8, 8) uint8."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randint(-60, 60, (count, 1, 8, 8), generator=generator)
    samples = (110 + 30 * labels.view(-1, 1, 1, 1) + noise).to(torch.uint8)
    return LabelledSamples(samples, labels, 2)


@pytest.fixture
def separable():
    return RealData(make_separable(400, 0), make_separable(200, 1))


def test_all_classifiers_make_as_many_steps_on_what_they_are_named_after(separable, trained_on):
    yardsticks = Yardsticks(separable, TRAINING, num_generated=100)
    generated = make_separable(100, 2)
    one = owner(3, [5, 1, 8])
    yardsticks.measure_pooled([one, owner(4, [2, 0])])
    figures = yardsticks.measure_client(one, generated)
    assert [steps for _, steps in trained_on] == [15] * 4  # 3 epochs of 100 samples, 20 a step
    pooled, own, mixed, alone = (data for data, _ in trained_on)
    # Fewer samples than a step has are repeated, in the order of the data.
    assert torch.equal(pooled.labels, torch.tensor([0, 1, 0, 1, 0] * 4))
    assert torch.equal(own.samples[:3], separable.train.samples[[5, 1, 8]])
    assert len(own) == 20
    assert alone is generated
    assert len(mixed) == 200
    assert figures["downstream_accuracy_own"] == 0.02
    assert figures["downstream_accuracy_generated"] == 0.1
    assert figures["downstream_accuracy_mixed"] == 0.2
    assert figures["downstream_gain"] == pytest.approx(0.18)


def test_a_mixture_is_half_of_either_whatever_their_numbers():
    few, many = make_separable(30, 0), make_separable(100, 1)
    for own, generated in ((few, many), (many, few)):
        mixed = mix(own, generated)
        assert len(mixed) == 200
        assert torch.equal(mixed.samples[: len(own)], own.samples)
        half = mixed.samples[100:]
        assert torch.equal(half[: len(generated)], generated.samples)
    whole = LabelledSamples(few.samples.float() / 127.5 - 1, few.labels, 2)
    assert torch.equal(mix(many, whole).samples, mix(many, few).samples)  # floats are made uint8


def test_copies_of_ones_own_data_are_worth_what_these_are(separable):
    yardsticks = Yardsticks(separable, ClassifierTraining(epochs=8, batch_size=20), 100)
    mine = owner(0, np.arange(100))
    figures = yardsticks.measure_client(mine, separable.train.select(torch.arange(100)))
    assert figures["downstream_accuracy_generated"] == figures["downstream_accuracy_own"]
    assert figures["downstream_gain"] == pytest.approx(0, abs=0.06)
    assert figures["downstream_accuracy_own"] > 0.8


def test_pooled_data_and_samples_of_the_missing_class_are_worth_more_than_one_class(separable):
    """One client has the dark class alone; the other, and its generator, have both."""
    yardsticks = Yardsticks(separable, ClassifierTraining(epochs=8, batch_size=20), 100)
    skewed, other = owner(0, np.arange(0, 100, 2)), owner(1, np.arange(200, 300))
    pooled = yardsticks.measure_pooled([skewed, other])
    figures = yardsticks.measure_client(skewed, make_separable(100, 5))
    assert figures["downstream_accuracy_own"] == 0.5  # it knows one answer
    assert figures["downstream_f1_own"] == pytest.approx(1 / 3)  # F1 2/3 and 0
    assert pooled["downstream_accuracy_pooled"] > 0.8
    assert figures["downstream_accuracy_mixed"] > 0.8
    gain = figures["downstream_accuracy_mixed"] - 0.5
    assert figures["downstream_gain"] == pytest.approx(gain)


def test_real_data_are_measured_once_for_all_runs_and_anew_where_anything_differs(
    separable, trained_on, cache
):
    def measure(indices, seed=0, num_generated=100, real=separable):
        yardsticks = Yardsticks(real, TRAINING, num_generated, seed)
        return yardsticks.measure_pooled([owner(0, indices)]), len(trained_on)

    figures, _ = measure([1, 2, 3])
    assert measure([3, 1, 2]) == (figures, 1)  # the order of clients makes no other data
    assert measure([1, 2, 4])[1] == 2
    assert measure([1, 2, 3], seed=1)[1] == 3
    assert measure([1, 2, 3], num_generated=200)[1] == 4
    changed = RealData(separable.train, make_separable(200, 7))
    assert measure([1, 2, 3], real=changed)[1] == 5
    assert len(list(cache.glob("utility-*.json"))) == 5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:20],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "key": "another"}),
        lambda text: json.dumps({**json.loads(text), "figures": {"accuracy": float("nan")}}),
        lambda text: json.dumps({**json.loads(text), "figures": {"accuracy": "much"}}),
        lambda text: json.dumps({**json.loads(text), "figures": {"f1": 0.5}}),
    ],
)
def test_a_damaged_file_is_measured_again_and_replaced(separable, trained_on, cache, spoil):
    yardsticks = Yardsticks(separable, TRAINING, 100)
    figures = yardsticks.measure_pooled([owner(0, [1, 2])])
    (path,) = cache.iterdir()
    text = path.read_text()
    path.write_text(spoil(text))
    assert yardsticks.measure_pooled([owner(0, [1, 2])]) == figures
    assert len(trained_on) == 2
    assert path.read_text() == text


def test_where_nothing_can_be_kept_it_is_measured_all_the_same(
    separable, trained_on, monkeypatch, tmp_path, caplog
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "file"))
    yardsticks = Yardsticks(separable, TRAINING, 100)
    assert yardsticks.measure_pooled([owner(0, [1, 2])])["downstream_f1_pooled"] == 0.5
    assert "cannot be kept" in caplog.text


def test_scores_of_a_domain_have_yardsticks_of_some_of_its_clients(evaluator, data, monkeypatch):
    owners = [client for client in data.clients if client.domain.name == "digits"]
    sampler = NoisyDigits(5, evaluator.domain)
    settings = EvaluationSettings(downstream=ClassifierTraining(epochs=1))
    effort = Effort(12, num_seeds=2, num_clients=3, num_yardstick_clients=2)
    seen = []
    measure = module.measure_downstream_utility
    monkeypatch.setattr(
        module, "measure_downstream_utility", lambda *a: seen.append(a[4]) or measure(*a)
    )
    scores = score_domain(sampler, evaluator, owners, settings, effort)
    assert set(seen) == {1}  # one epoch of 12 samples of ten classes, 120 a step
    assert list(scores.by_client) == [0, 1, 2]
    assert all(
        ("downstream_f1_generated" in f) == ("downstream_gain" in f)
        for f in scores.by_client.values()
    )
    gains = {c: f["downstream_gain"] for c, f in scores.by_client.items() if "downstream_gain" in f}
    assert list(gains) == [0, 1]
    assert all("downstream_accuracy_pooled" in figures for figures in scores.by_seed.values())
    row = scores.row
    assert row["downstream_gain"] == pytest.approx(sum(gains.values()) / 2)
    assert row["downstream_gain_least"] == min(gains.values())
    spread = abs(gains[0] - gains[1]) / 2**0.5
    assert row["downstream_gain_std"] == pytest.approx(spread)
    assert "generation_score_std" not in row  # all together have it
    without = score_domain(sampler, evaluator, owners, settings, Effort(12, 1, 0, 1))
    (figures,) = without.by_client.values()
    assert "downstream_accuracy_generated" not in figures
    assert figures["downstream_gain"] == gains[0]


def test_quick_settings_train_no_yardsticks(evaluator, data, trained_on):
    owners = [client for client in data.clients if client.domain.name == "digits"]
    sampler = NoisyDigits(5, evaluator.domain)
    effort = Effort(6, num_yardstick_clients=2)
    scores = score_domain(sampler, evaluator, owners, EvaluationSettings.quick(), effort)
    assert not trained_on and scores.by_client == {}
    assert not any(name.startswith("downstream") for name in scores.row)
