import hashlib
import logging
import os
import stat
import warnings

import pytest
import torch
from torch import nn

from huscf.errors import HuscfError
from huscf.metrics import (
    ClassifierTraining,
    DomainClassifier,
    JudgeSettings,
    LabelledSamples,
    RealData,
    content_cache,
    downstream_utility,
    judge_cache,
    load_judge,
)

BRIEF = JudgeSettings(width=4, training=ClassifierTraining(epochs=2, learning_rate=3e-3))


@pytest.fixture
def trainings(monkeypatch):
    """Counts how often a judge was trained."""
    calls = []
    original = judge_cache.train_classifier

    def count(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(judge_cache, "train_classifier", count)
    return calls


def test_digits_judge_is_right(judge, digits):
    assert judge.test_accuracy >= 0.96
    verdict = judge.inspect(digits.test)
    hits = (verdict.probabilities.argmax(1) == digits.test.labels).float().mean()
    assert judge.test_accuracy == pytest.approx(hits.item())
    assert verdict.features.shape == (360, 128)
    torch.testing.assert_close(verdict.probabilities.sum(1), torch.ones(360))


def test_mnist_judge_is_right_after_a_part_of_its_training(mnist):
    settings = JudgeSettings(
        width=12, training=ClassifierTraining(1, 15_000, learning_rate=3e-3, one_cycle=True)
    )
    assert judge_cache.train_judge(mnist, settings).test_accuracy >= 0.97


def test_colour_judge_of_three_classes_is_right(blood_cells):
    settings = JudgeSettings(
        width=12, training=ClassifierTraining(8, learning_rate=3e-3, one_cycle=True)
    )
    assert judge_cache.train_judge(blood_cells, settings).test_accuracy >= 0.93


def test_plain_judge_is_the_downstream_network(digits, tmp_path, monkeypatch):
    plain = load_judge(digits, JudgeSettings.plain(), tmp_path)
    trained = []
    monkeypatch.setattr(downstream_utility, "train_classifier", lambda *a: trained.append(a[0]))
    downstream_utility.measure_downstream_utility(digits.train, digits.test, BRIEF.training)
    (downstream,) = trained
    shapes = [sorted(tuple(p.shape) for p in net.parameters()) for net in (plain, downstream)]
    assert shapes[0] == shapes[1]
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in plain.modules())
    assert plain.test_accuracy >= 0.95
    again = load_judge(digits, JudgeSettings.plain(), tmp_path)
    assert again.inspect(digits.test).features.equal(plain.inspect(digits.test).features)


def test_features_of_training_data_are_of_unit_scale(judge, digits):
    features = judge.inspect(digits.train).features
    assert features.mean(0).abs().max() < 0.3
    assert features.std(0).min() > 0.7 and features.std(0).max() < 1.4


def test_second_time_is_a_hit_with_equal_verdicts(digits, tmp_path, trainings):
    first = load_judge(digits, BRIEF, tmp_path)
    second = load_judge(digits, BRIEF, tmp_path)
    assert len(trainings) == 1
    assert second.test_accuracy == first.test_accuracy
    assert second.inspect(digits.test).features.equal(first.inspect(digits.test).features)
    assert not second.training
    assert not any(parameter.requires_grad for parameter in second.parameters())


def test_other_data_labels_or_settings_are_other_judges(digits, tmp_path, trainings):
    load_judge(digits, BRIEF, tmp_path)
    samples = digits.train.samples.clone()
    samples[0, 0, 0, 0] += 0.125
    relabelled = digits.train.labels.clone()
    relabelled[0] = (relabelled[0] + 1) % 10
    for changed in (
        LabelledSamples(samples, digits.train.labels, 10),
        LabelledSamples(digits.train.samples, relabelled, 10),
    ):
        load_judge(RealData(changed, digits.test), BRIEF, tmp_path)
    load_judge(digits, JudgeSettings(width=4, seed=1, training=BRIEF.training), tmp_path)
    assert len(trainings) == 4
    assert len(list(tmp_path.iterdir())) == 4


def empty(content):
    return b""


def truncated(content):
    return content[: len(content) // 2]


def one_bit_of_a_weight_flipped(content):
    # Tensors lie uncompressed in the file: the middle is in the largest of them.
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def not_a_judge(content):
    return b"something else entirely"


@pytest.mark.parametrize("damage", [empty, truncated, one_bit_of_a_weight_flipped, not_a_judge])
def test_damaged_file_is_trained_again(damage, digits, tmp_path, trainings, caplog):
    first = load_judge(digits, BRIEF, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        second = load_judge(digits, BRIEF, tmp_path)
    assert len(trainings) == 2
    assert "damaged" in caplog.text
    assert second.inspect(digits.test).features.equal(first.inspect(digits.test).features)
    load_judge(digits, BRIEF, tmp_path)
    assert len(trainings) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_judge_of_other_data_under_this_name_is_not_trusted(digits, tmp_path, trainings):
    load_judge(digits, BRIEF, tmp_path / "right")
    swapped = RealData(digits.test, digits.train)
    load_judge(swapped, BRIEF, tmp_path / "wrong")
    (right,), (wrong,) = ((tmp_path / name).iterdir() for name in ("right", "wrong"))
    right.write_bytes(wrong.read_bytes())
    load_judge(digits, BRIEF, tmp_path / "right")
    assert len(trainings) == 3


def test_file_loads_without_running_code(digits, tmp_path):
    judge = load_judge(digits, BRIEF, tmp_path)
    (path,) = tmp_path.iterdir()
    assert torch.load(path, weights_only=True)["test_accuracy"] == judge.test_accuracy


def test_a_judge_that_cannot_be_stored_is_used_and_leaves_no_file(
    digits, tmp_path, monkeypatch, caplog
):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with caplog.at_level(logging.WARNING):
        assert load_judge(digits, BRIEF, tmp_path).test_accuracy > 0
    assert f"cannot be kept in {tmp_path} (disk full)" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_other_users_of_a_folder_can_read_what_the_umask_lets_them(digits, tmp_path):
    before = os.umask(0o027)
    try:
        load_judge(digits, BRIEF, tmp_path)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    digits, tmp_path, trainings, caplog, monkeypatch
):
    load_judge(digits, BRIEF, tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(torch, "load", refuse)
    with caplog.at_level(logging.WARNING):
        load_judge(digits, BRIEF, tmp_path)
    assert len(trainings) == 2
    assert "is not yours to read; the judge is trained again" in caplog.text
    assert "damaged" not in caplog.text


def test_a_folder_that_cannot_be_written_will_do_where_it_has_the_judge(
    digits, tmp_path, trainings, monkeypatch
):
    first = load_judge(digits, BRIEF, tmp_path)
    monkeypatch.setattr("os.access", lambda *args: False)
    second = load_judge(digits, BRIEF, tmp_path)
    assert second.inspect(digits.test).features.equal(first.inspect(digits.test).features)
    swapped = RealData(digits.test, digits.train)
    with pytest.raises(HuscfError, match="cannot be written; set HUSCF_CACHE"):
        load_judge(swapped, BRIEF, tmp_path)
    assert len(trainings) == 1


def test_keys_do_not_change_and_need_no_copy_of_the_data(digits):
    train = LabelledSamples(digits.train.samples[::2], digits.train.labels[::2], 10)
    real, expected = RealData(train, digits.test), hashlib.sha256()
    expected.update(f"{judge_cache.CACHE_FORMAT} {BRIEF}".encode())
    for data in (train, digits.test):
        expected.update(f"torch.float32 {tuple(data.samples.shape)} 10".encode())
        expected.update(data.samples.numpy().tobytes() + data.labels.numpy().tobytes())
    assert judge_cache.content_hash(real, BRIEF) == expected.hexdigest()
    buffer = content_cache.as_buffer(digits.test.samples)
    assert buffer.ctypes.data == digits.test.samples.data_ptr()


def test_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "there"))
    assert judge_cache.default_cache_dir() == tmp_path / "there"
    monkeypatch.delenv("HUSCF_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert judge_cache.default_cache_dir() == tmp_path / ".cache" / "huscf"


def test_folder_that_cannot_be_is_refused_before_training(digits, tmp_path, trainings):
    (tmp_path / "file").write_text("")
    with pytest.raises(HuscfError, match="set HUSCF_CACHE"):
        load_judge(digits, BRIEF, tmp_path / "file" / "below")
    assert not trainings


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 64, 64), (2, 7, 19), (1, 64, 2)])
def test_any_shape_and_number_of_classes(shape):
    network = DomainClassifier(shape, num_classes=7).eval()
    assert network(torch.zeros(2, *shape)).shape == (2, 7)


def test_inspecting_restores_every_mode(digits):
    network = DomainClassifier((1, 8, 8), 10).train()
    frozen = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in frozen:
        module.eval()
    before = [module.training for module in network.modules()]
    statistics = frozen[0].running_mean.clone()
    network.inspect(digits.test)
    assert [module.training for module in network.modules()] == before
    assert frozen[0].running_mean.equal(statistics)


def test_training_works_in_inference_mode_and_leaves_random_numbers_alone(digits):
    state = torch.get_rng_state()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = judge_cache.train_judge(digits, BRIEF)
        assert torch.is_inference_mode_enabled()
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(99)
    outside = judge_cache.train_judge(digits, BRIEF)
    assert inside.inspect(digits.test).features.equal(outside.inspect(digits.test).features)


def test_one_sample_is_one_clear_line(digits):
    one = digits.train.select(torch.tensor([0]))
    with pytest.raises(HuscfError, match="fewer than two samples"):
        judge_cache.train_judge(RealData(one, digits.test), BRIEF)


def test_impossible_training_is_one_clear_line():
    with pytest.raises(HuscfError, match="must be above 0"):
        ClassifierTraining(epochs=0)


def test_steps_follow_epochs_until_the_bound():
    training = ClassifierTraining(epochs=3, max_samples_seen=2_000, batch_size=100)
    assert training.count_steps(500) == 15
    assert training.count_steps(1_000) == 20
    assert training.count_steps(50) == 3
