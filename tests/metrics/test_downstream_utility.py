import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from huscf.errors import HuscfError
from huscf.metrics import (
    ClassificationFigures,
    ClassifierTraining,
    LabelledSamples,
    measure_downstream_utility,
)
from huscf.metrics.classifier_training import private_training, train_classifier

TRAINING = ClassifierTraining(epochs=10, batch_size=32)


@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
@pytest.mark.parametrize("predicted_classes", [5, 4], ids=["all", "one never predicted"])
def test_figures_equal_scikit_learn(predicted_classes):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=generator)
    guesses = torch.randint(predicted_classes, (400,), generator=generator)
    right = torch.rand(400, generator=generator) < 0.6
    predictions = torch.where(right & (labels < predicted_classes), labels, guesses)
    metric = ClassificationFigures(7)  # two classes never occur
    for some, their in zip(predictions.split(64), labels.split(64), strict=True):
        metric.update(some, their)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    table = confusion_matrix(labels, predictions)
    false_alarms = table.sum(0) - table.diagonal()
    expected = {
        "accuracy": accuracy_score(labels, predictions),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "fpr": (false_alarms / (len(labels) - table.sum(1))).mean(),
    }
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_figures_without_predictions_are_one_clear_line():
    with pytest.raises(HuscfError, match="no predictions"):
        ClassificationFigures(3).compute()


def test_real_training_data_are_useful_and_shuffled_labels_are_not(digits):
    real = measure_downstream_utility(digits.train, digits.test, TRAINING)
    assert real["accuracy"] >= 0.95
    assert real["f1"] >= 0.95
    assert real["fpr"] <= 0.01
    order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(0))
    shuffled = LabelledSamples(digits.train.samples, digits.train.labels[order], 10)
    useless = measure_downstream_utility(shuffled, digits.test, TRAINING)
    assert useless["accuracy"] < 0.4


def test_seed_decides_and_nothing_else(digits):
    brief = ClassifierTraining(epochs=1)
    state = torch.get_rng_state()
    first = measure_downstream_utility(digits.train, digits.test, brief, seed=5)
    assert torch.get_rng_state().equal(state)
    torch.rand(3)
    assert measure_downstream_utility(digits.train, digits.test, brief, seed=5) == first
    assert measure_downstream_utility(digits.train, digits.test, brief, seed=6) != first


def test_mnist_is_learnt_within_a_small_budget(mnist):
    train = mnist.train.balanced(2_000, seed=0)
    test = mnist.test.at_most(1_000, seed=0)
    assert measure_downstream_utility(train, test, ClassifierTraining(epochs=4))["accuracy"] >= 0.85


@pytest.mark.parametrize(("size", "expected"), [(8, 1), (28, 2)])
def test_small_samples_are_trained_on_in_one_thread_and_the_number_is_restored(size, expected):
    seen = []

    class Watching(torch.nn.Linear):
        def forward(self, samples):
            seen.append(torch.get_num_threads())
            return super().forward(samples.flatten(1))

    data = LabelledSamples(torch.zeros(20, 1, size, size), torch.arange(20) % 2, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with private_training(0):
            train_classifier(Watching(size**2, 2), data, ClassifierTraining(epochs=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [expected]


def test_steps_are_counted_where_they_are_given_instead_of_epochs():
    seen = []
    data = LabelledSamples(torch.zeros(20, 1, 8, 8), torch.arange(20) % 2, 2)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    network.register_forward_hook(lambda *a: seen.append(1))
    with private_training(0):
        train_classifier(network, data, ClassifierTraining(epochs=1, batch_size=5), steps=7)
    assert len(seen) == 7
