"""Which classes there are and how they are numbered, of datamodules and arrays of all kinds."""

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from huscf.datamodules import Domain, FederatedDataModule, MedicalDataModule, NpzDataModule
from huscf.errors import DataError


class Own(FederatedDataModule):
    """Domains given as lists of training and test labels, and names; a sample shows its label."""

    def __init__(self, *given, **kwargs):
        super().__init__(**{"clients_per_domain": 1} | kwargs)
        self.given = given

    def load_domains(self):
        return [
            Domain(f"d{n}", draw(train), train, draw(test), test, class_names=names)
            for n, (train, test, names) in enumerate(self.given)
        ]


def draw(labels):
    return np.array(labels, np.uint8).reshape(-1, 1, 1, 1).repeat(4, 2).repeat(4, 3)


def load(*given, **options):
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        data = Own(*given, **options)
        domains = list(data.domains.values())
    return data, domains, [str(note.message) for note in notes]


@pytest.mark.parametrize(
    ("labels", "unused"),
    [
        ([1, 2, 3, 4], "label 0"),
        ([3, 17, 251], "label 0-2, 4-16, 18-250"),
        ([0, 1, 5], "label 2-4"),
        ([7], "label 0-6"),
    ],
)
def test_labels_with_gaps_are_numbered_anew_and_keep_their_numbers_as_names(labels, unused):
    data, (domain,), notes = load((labels * 3, labels, ()))
    assert data.sample_shape.num_classes == domain.num_classes == len(labels)
    assert domain.class_names == tuple(map(str, labels))
    assert domain.train_labels.tolist() == list(range(len(labels))) * 3
    shown = [int(domain.class_names[label]) for label in domain.test_labels.tolist()]
    assert shown == labels == domain.test_samples[:, 0, 0, 0].tolist()
    (note,) = notes
    assert f"no training sample has {unused}: the classes are numbered from 0 to" in note
    assert "\n" not in note and "labels from 0 without a gap" in note
    assert data.make_manifest()["clients"][0]["label_counts"] == [3] * len(labels)
    assert data.client_num_classes == {0: len(labels)}


def test_a_class_that_has_two_numbers_is_said_once_for_a_pair_of_domains():
    labels, names = [0, 1, 2], ("benign", "malignant", "normal")
    *_, notes = load((labels * 2, labels, names), (labels * 2, labels, names[::-1]))
    (note,) = notes
    assert "class normal is number 2 in d0 and 0 in d1: what both train together" in note
    short = ([0, 1] * 2, [0, 1], ("benign", "normal"))
    *_, notes = load((labels * 2, labels, names), short, ([0, 1] * 2, [0, 1], ("0", "1")))
    (note,) = notes
    assert "class normal is number 2 in d0 and 1 in d1" in note


@pytest.mark.parametrize("other", [("benign", "malignant"), ("shoe", "shirt", "coat"), ()])
def test_classes_numbered_alike_or_of_other_names_are_not_warned_of(other):
    labels, names = [0, 1, 2], ("benign", "malignant", "normal")
    own = labels[: len(other)] or labels
    *_, notes = load((labels * 2, labels, names), (own * 2, own, other))
    assert notes == []


def test_enormous_labels_take_no_memory():
    labels = [10**12, 2 * 10**12]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        domain = Domain("x", draw([1, 2]), labels, draw([1, 2]), labels)

        class Far(Own):
            def load_domains(self):
                return [domain]

        assert Far().domains["x"].class_names == ("1000000000000", "2000000000000")


@pytest.mark.parametrize("names", [(), ("benign", "malignant", "normal")])
def test_at_a_site_classes_that_others_may_have_keep_their_numbers(names):
    data = Own(([0, 2, 2, 0], [0, 2], names))
    data.keeps_class_numbers = True
    with pytest.warns(
        UserWarning, match=r"no training sample has (label 1|class malignant): other"
    ):
        (domain,) = data.domains.values()
    assert domain.train_labels.tolist() == [0, 2, 2, 0] and domain.class_names == names
    assert data.sample_shape.num_classes == 3


def test_a_named_class_that_nobody_has_is_not_numbered():
    data, (domain,), notes = load(([0, 2, 0, 2], [0, 2], ("cat", "dog", "mouse")))
    assert domain.class_names == data.common_class_names == ("cat", "mouse")
    assert domain.train_labels.tolist() == [0, 1, 0, 1]
    assert "no training sample has class dog" in notes[0]


def test_a_class_that_only_one_domain_has_keeps_its_number_for_all():
    data, (first, second), notes = load(([0, 1, 0], [0], ()), ([1, 2, 2], [2], ()))
    assert notes == [] and data.sample_shape.num_classes == 3
    assert first.class_names == second.class_names == ()
    assert second.train_labels.tolist() == [1, 2, 2]


def test_domains_with_and_without_names_are_numbered_alike():
    _, (first, second), _ = load(([0, 3, 0], [3], ("a", "b", "c", "d")), ([1, 3, 1], [1], ()))
    assert first.class_names == ("a", "b", "d") and first.train_labels.tolist() == [0, 2, 0]
    assert second.class_names == ("0", "1", "3") and second.train_labels.tolist() == [1, 2, 1]


def test_labels_without_a_gap_are_left_alone_without_a_word():
    _, (domain,), notes = load(([0, 1, 2, 0], [0], ()))
    assert domain.class_names == () and notes == []


def test_held_out_samples_of_a_class_that_nobody_trains_on_are_bad():
    message = (
        r"d0: 2 bad inputs: 2 x test sample of class 2, of which no training sample is \(test r"
    )
    with pytest.raises(DataError, match=message):
        load(([0, 1, 0], [2, 1, 2], ()))
    data, (domain,), _ = load(([0, 1, 0], [2, 1, 2], ()), on_bad_data="skip")
    assert domain.test_labels.tolist() == [1] == domain.test_samples[:, 0, 0, 0].tolist()
    assert len(data.make_manifest()["left_out"]["d0"]) == 2
    assert domain.num_classes == 2


def save(folder, labels, name="a", size=8, test=None):
    labels = np.asarray(labels)
    test = labels if test is None else np.asarray(test)
    rows = np.arange(len(labels), dtype=np.uint8)
    images = np.zeros((len(labels), size, size), np.uint8) + rows[:, None, None]
    np.savez(
        folder / f"{name}.npz",
        **{f"{s}_images": images for s in ("train", "val", "test")},
        **{"train_labels": labels, "val_labels": labels, "test_labels": test},
    )


def load_arrays(folder, **options):
    return NpzDataModule({"a": "a.npz"}, root=str(folder), **options).domains["a"]


ONE_BASED = [1, 2, 3, 4, 1, 2, 3, 4]
NAMES = ["glioma", "meningioma", "none", "pituitary"]


@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("on_bad_data", ["fatal", "skip"])
def test_arrays_of_labels_from_1_lose_no_class(tmp_path, names, on_bad_data):
    save(tmp_path, ONE_BASED)
    named = {"class_names": names and {"a": names}, "on_bad_data": on_bad_data}
    with pytest.warns(UserWarning, match="a: the labels run from 1, not 0: class 0 is label 1"):
        domain = load_arrays(tmp_path, **named)
    assert domain.train_labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert domain.class_names == tuple(names or "1234")


def test_classes_may_be_named_by_label(tmp_path):
    save(tmp_path, [3, 17, 251, 3, 17, 251])
    with pytest.raises(DataError, match=r"reach 251, but are only 3 .*by label: \{a: \{3: a name"):
        load_arrays(tmp_path)
    domain = load_arrays(tmp_path, class_names={"a": {251: "late", 3: "early", 17: "middle"}})
    assert domain.class_names == ("early", "middle", "late")
    assert domain.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(DataError, match=r"2 x label outside the 2 classes \(train row 1"):
        save(tmp_path, [3, 17, 251, 3])
        load_arrays(tmp_path, class_names={"a": {251: "late", 3: "early"}})


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ([0.0, 1.0, 2.0, 1.0], [0, 1, 2, 1], ()),
        ([[0.0], [1.0], [0.0], [1.0]], [0, 1, 0, 1], ()),
        (["dog", "cat", "dog", "cat"], [1, 0, 1, 0], ("cat", "dog")),
        (np.eye(3, dtype=np.uint8)[[0, 2, 1, 0]], [0, 2, 1, 0], ()),
        (np.eye(2)[[0, 1, 1, 0]], [0, 1, 1, 0], ()),
        (np.array([0, 1, 0, 1], np.uint64), [0, 1, 0, 1], ()),
    ],
)
def test_labels_of_other_kinds_are_read(tmp_path, labels, expected, names):
    save(tmp_path, labels)
    domain = load_arrays(tmp_path)
    assert domain.train_labels.tolist() == expected and domain.class_names == names
    assert domain.train_samples[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0, 0.0, 1.0], "labels are float64"),
        ([np.nan, 1.0, 0.0, 1.0], "labels are float64"),
        ([np.inf, 1.0, 0.0, 1.0], "a, train: "),
        (np.array([[1, 1, 0], [0, 0, 1]] * 2), r"choose one of the 3 columns with label_from"),
        (np.zeros((4, 3), np.uint8), r"choose one of the 3 columns with label_from"),
        (np.zeros((4, 2, 2), np.uint8), r"labels are uint8 \(4, 2, 2\)"),
    ],
)
def test_labels_that_are_none_or_several_are_refused(tmp_path, labels, message):
    save(tmp_path, labels)
    with pytest.raises(DataError, match=message):
        load_arrays(tmp_path)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_one_of_several_findings_can_be_chosen(tmp_path, column):
    labels = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]], np.uint8)
    save(tmp_path, labels)
    domain = load_arrays(tmp_path, label_from={"a": column})
    assert domain.train_labels.tolist() == labels[:, column].tolist()
    with pytest.raises(DataError, match="label_from is 3, there are 3 columns"):
        load_arrays(tmp_path, label_from={"a": 3})


@pytest.mark.parametrize(
    ("name", "file", "size"),
    [
        ("BreastMNIST", "breastmnist", 28),
        ("breastmnist_64", "breastmnist_64", 64),
        ("BreastMNIST_128", "breastmnist_128", 128),
        ("breastmnist_224", "breastmnist_224", 224),
        ("breastmnist_128.npz", "breastmnist_128", 128),
    ],
)
def test_medmnist_sets_are_found_as_people_write_them(tmp_path, name, file, size):
    save(tmp_path, [[0], [1], [0], [1]], file, size)
    data = MedicalDataModule([name], root=str(tmp_path), clients_per_domain=2)
    domain = data.domains[name.removesuffix(".npz")]
    assert domain.train_samples.shape == (4, 1, size, size)
    assert domain.train_labels.tolist() == [0, 1, 0, 1]
    if not name.endswith(".npz"):
        assert domain.class_names == ("malignant", "normal, benign")


def test_a_medmnist_set_of_several_findings_is_refused_with_the_way_out(tmp_path):
    labels = torch.randint(0, 2, (30, 14), generator=torch.Generator().manual_seed(0)).numpy()
    save(tmp_path, labels.astype(np.uint8), "chestmnist", 28)
    with pytest.raises(DataError, match=r"label_from: \{chestmnist: 0\}; there are 0 atelectasis"):
        _ = MedicalDataModule(["chestmnist"], root=str(tmp_path)).domains
    data = MedicalDataModule(
        ["chestmnist"], root=str(tmp_path), label_from={"chestmnist": 2}, clients_per_domain=2
    )
    domain = data.domains["chestmnist"]
    assert domain.class_names == ("no effusion", "effusion")
    assert domain.train_labels.tolist() == labels[:, 2].tolist()


def test_of_several_processes_the_first_alone_warns(monkeypatch):
    given = ([0, 2] * 3, [0, 2], ())
    assert len(load(given)[2]) == 1
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert load(given)[2] == []
