import math

import pytest
import torch

from huscf.errors import HuscfError
from huscf.metrics import (
    ClassifierTraining,
    DomainClassifier,
    EvaluationSettings,
    InceptionFeatures,
    LabelledSamples,
    RealData,
    RealReference,
    evaluate_samples,
    load_judge,
)
from huscf.metrics.judge_cache import JudgeSettings

SETTINGS = EvaluationSettings(max_nearest=300, downstream=ClassifierTraining(3, batch_size=32))
DOWNSTREAM = {f"downstream_{name}" for name in ("accuracy", "precision", "recall", "f1", "fpr")}
ALWAYS = {
    "generation_score",
    "generation_score_real",
    "label_accuracy",
    "frechet_distance",
    "frechet_distance_real",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
    "nearest_real_ratio",
    "judge_accuracy",
}


@pytest.fixture(scope="module")
def halves(digits, judge):
    """One half of the training data plays the generator's part, so that it is real and fresh."""
    order = torch.arange(len(digits.train))
    fresh, known = order[::2], order[1::2]
    real = RealData(digits.train.select(known), digits.test)
    return digits.train.select(fresh), RealReference(real, judge)


def test_fresh_real_samples_are_as_good_as_can_be(halves, judge):
    fresh, reference = halves
    figures = evaluate_samples(fresh, reference, SETTINGS)
    assert set(figures) == ALWAYS | DOWNSTREAM
    assert all(math.isfinite(value) and type(value) is float for value in figures.values())
    assert figures["generation_score"] > 9
    assert figures["generation_score"] == pytest.approx(figures["generation_score_real"], rel=0.1)
    assert figures["label_accuracy"] > 0.97
    assert figures["frechet_distance"] == pytest.approx(figures["frechet_distance_real"], rel=0.3)
    assert abs(figures["kernel_distance"]) < 0.1
    assert min(figures[name] for name in ("precision", "recall", "coverage")) > 0.8
    assert figures["nearest_real_ratio"] == pytest.approx(1, abs=0.1)
    assert figures["downstream_accuracy"] > 0.85
    assert figures["judge_accuracy"] == judge.test_accuracy


def test_each_fault_lowers_the_figure_that_watches_for_it(halves):
    fresh, reference = halves
    quick = EvaluationSettings.quick()
    good = evaluate_samples(fresh, reference, quick)

    mislabelled = LabelledSamples(fresh.samples, (fresh.labels + 1) % 10, 10)
    figures = evaluate_samples(mislabelled, reference, quick)
    assert figures["label_accuracy"] < 0.05
    assert figures["generation_score"] == pytest.approx(good["generation_score"], rel=0.02)

    noise = torch.rand(fresh.samples.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figures = evaluate_samples(LabelledSamples(noise, fresh.labels, 10), reference, quick)
    assert figures["frechet_distance"] > 5 * good["frechet_distance"]
    assert figures["kernel_distance"] > 10 * abs(good["kernel_distance"])
    # Not its precision: wide balls around a few outliers reach the noise as well.
    assert figures["recall"] < 0.1
    assert figures["coverage"] < 0.2
    assert figures["density"] < 0.6 * good["density"]
    assert figures["nearest_real_ratio"] > 1.5

    one_class = fresh.select((fresh.labels == 3).nonzero().flatten())
    figures = evaluate_samples(one_class, reference, quick)
    assert figures["generation_score"] < 1.5
    assert figures["recall"] < 0.5 * good["recall"]

    copies = evaluate_samples(reference.real.train, reference, quick)
    assert copies["nearest_real_ratio"] == 0


def test_same_seed_same_figures_and_nothing_else_changes(halves, judge):
    fresh, reference = halves
    torch.manual_seed(1)
    state, modes = torch.get_rng_state(), [module.training for module in judge.modules()]
    with torch.inference_mode():
        inside = evaluate_samples(fresh, reference, SETTINGS, seed=4)
    assert torch.get_rng_state().equal(state)
    assert [module.training for module in judge.modules()] == modes
    assert torch.is_grad_enabled()
    torch.rand(5)
    assert evaluate_samples(fresh, reference, SETTINGS, seed=4) == inside


def test_samples_made_in_inference_mode_can_be_learnt_from(halves, judge):
    fresh, reference = halves
    with torch.inference_mode():
        made = LabelledSamples(fresh.samples * 1, fresh.labels * 1, 10)
        assert made.samples.is_inference()
        figures = evaluate_samples(made, reference, SETTINGS)
    assert figures["downstream_accuracy"] > 0.85


def test_a_reference_works_out_once_what_no_sample_changes(halves, judge, monkeypatch):
    fresh, reference = halves
    seen, inspect = [], DomainClassifier.inspect
    monkeypatch.setattr(
        DomainClassifier, "inspect", lambda self, data: seen.append(data) or inspect(self, data)
    )
    kept = RealReference(reference.real, judge)
    quick = EvaluationSettings.quick()
    first = evaluate_samples(fresh, kept, quick, seed=1)
    test, train = reference.real.test.labels, reference.real.train

    def count(samples):
        """How many real samples are compared with these."""
        return len(train.rows_like(test, len(samples.rows_like(test, 10**6, 0)), 0))

    fewer = fresh.select(torch.arange(700))
    assert [len(data) for data in seen] == [719, 360, count(fresh)]
    assert len({id(data.samples) for data in seen}) == 3
    other = evaluate_samples(fewer, kept, quick, seed=2)
    # The other samples, and as many real ones as they are.
    assert [len(data) for data in seen[3:]] == [700, count(fewer)]
    assert evaluate_samples(fresh, kept, quick, seed=1) == first
    assert [len(data) for data in seen[5:]] == [719]
    alone = RealReference(reference.real, judge)
    assert evaluate_samples(fewer, alone, quick, seed=2) == other


def test_the_mix_of_classes_is_no_fault_of_the_samples(halves, judge):
    fresh, reference = halves
    # Real test data that have few of most classes, and samples that have equally many.
    rare = (reference.real.test.labels > 2) & (torch.arange(360) % 4 > 0)
    skewed = reference.real.test.select((~rare).nonzero().flatten())
    reference = RealReference(RealData(reference.real.train, skewed), judge)
    figures = evaluate_samples(fresh.balanced(700, 0), reference, EvaluationSettings.quick())
    assert figures["generation_score"] == pytest.approx(figures["generation_score_real"], rel=0.1)
    assert figures["frechet_distance"] == pytest.approx(figures["frechet_distance_real"], rel=0.3)
    assert abs(figures["kernel_distance"]) < 0.1


def test_uint8_and_float_samples_give_the_same_figures(blood_cells, tmp_path):
    brief = JudgeSettings(width=8, training=ClassifierTraining(3, 2_000, learning_rate=3e-3))
    judge = load_judge(blood_cells, brief, tmp_path)
    settings = EvaluationSettings(
        max_samples=300, max_nearest=100, downstream=ClassifierTraining(2, batch_size=32)
    )
    as_bytes = blood_cells.train.at_most(600, seed=1)
    as_floats = LabelledSamples(as_bytes.samples / 127.5 - 1, as_bytes.labels, 3)
    figures = evaluate_samples(as_bytes, RealReference(blood_cells, judge), settings)
    assert evaluate_samples(
        as_floats, RealReference(blood_cells, judge), settings
    ) == pytest.approx(figures, rel=1e-3, abs=1e-3)
    assert figures["nearest_real_ratio"] == pytest.approx(0, abs=1e-6)
    assert figures["downstream_accuracy"] > 0.6


def test_spectrograms_get_a_distance_in_decibels(halves, judge):
    fresh, reference = halves
    settings = EvaluationSettings(downstream=None, spectrogram_range_db=80.0)
    near = evaluate_samples(fresh, reference, settings)["spectral_distance_db"]
    fainter = LabelledSamples(fresh.samples * 0.5 - 0.5, fresh.labels, 10)
    far = evaluate_samples(fainter, reference, settings)["spectral_distance_db"]
    assert near < 3 < far


@pytest.fixture
def inception_like():
    """Stands where Inception stands, whose weights cannot be had: pixels are the features."""
    inception = InceptionFeatures("w.pth")
    # A cached property of a frozen class: this is the extractor, nothing is loaded.
    vars(inception)["extractor"] = torch.nn.Flatten()
    return inception


def test_what_does_not_fit_is_one_clear_line(halves, judge):
    fresh, reference = halves
    wide = LabelledSamples(torch.zeros(20, 1, 8, 9), torch.zeros(20).long(), 10)
    with pytest.raises(HuscfError, match=r"synthetic samples have shape \(1, 8, 9\)"):
        evaluate_samples(wide, reference, SETTINGS)
    fewer = LabelledSamples(fresh.samples, fresh.labels.clamp(max=4), 5)
    with pytest.raises(HuscfError, match="synthetic samples are of 5 classes, real of 10"):
        evaluate_samples(fewer, reference, SETTINGS)
    with pytest.raises(HuscfError, match="the judge is for 10 classes"):
        evaluate_samples(fewer, RealReference(RealData(fewer, fewer), judge), SETTINGS)
    with pytest.raises(HuscfError, match=r"no sample of classes \[0, 1, 2\]"):
        some = fresh.select((fresh.labels > 2).nonzero().flatten())
        evaluate_samples(some, reference, SETTINGS)


def test_figures_that_need_more_samples_than_there_are_are_left_out(halves, judge, inception_like):
    fresh, reference = halves
    settings = EvaluationSettings(downstream=None, inception=inception_like)
    inception = {"fid", "kid"}
    distances = {"frechet_distance", "frechet_distance_real", "kernel_distance"}
    neighbours = {"precision", "recall", "density", "coverage"}
    for count, missing in (
        (6, set()),
        (5, neighbours),
        (2, neighbours),
        (1, neighbours | distances | inception),
    ):
        test = reference.real.test.select(torch.arange(count))
        few = RealReference(RealData(reference.real.train, test), judge)
        figures = evaluate_samples(fresh, few, settings)
        assert set(figures) == (ALWAYS | inception) - missing, count
        assert all(math.isfinite(value) for value in figures.values())
    # Few samples of its own are no more of a reason to measure nothing.
    figures = evaluate_samples(fresh.select(torch.arange(4)), reference, settings)
    assert set(figures) == (ALWAYS | inception) - neighbours
