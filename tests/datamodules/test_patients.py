"""A patient is on one side of the split and with one client."""

from collections import defaultdict

import numpy as np
import pytest

from huscf.datamodules import (
    DirichletPartitioner,
    Domain,
    FederatedDataModule,
    IidPartitioner,
    LabelExclusionPartitioner,
    NaturalIdPartitioner,
    QuantitySkewPartitioner,
)
from huscf.datamodules.held_out import hold_out
from huscf.datamodules.sources import SourceFile
from huscf.errors import DataError
from tests.datamodules.test_folder import make_module, save_picture, write_csv

PARTITIONERS = [
    IidPartitioner(),
    DirichletPartitioner(0.5),
    QuantitySkewPartitioner(0.5),
    LabelExclusionPartitioner({0: 0.5, 1: 0.5}, {1.0: 0.5, 0.7: 0.5}),
    NaturalIdPartitioner(),
]


def make_rows(folder, num_patients=20, client=False, split=None):
    """Every patient has 1 to 5 pictures, whose grey level says whose they are."""
    rows = []
    for patient in range(num_patients):
        for number in range(1 + patient % 5):
            path = f"pics/{patient}-{number}.png"
            save_picture(folder / path, 10 * patient)
            row = {"path": path, "label": "ab"[patient % 2], "patient": f"P{patient}"}
            row |= {"client": f"h{patient % 3}"} if client else {}
            row |= {"split": split(patient, number)} if split else {}
            rows.append(row)
    return rows


def load(folder, rows, **options):
    write_csv(folder / "list.csv", rows)
    return make_module(folder, source="list.csv", **options)


def find_patients(samples):
    return set((samples[:, 0, 0, 0] // 10).tolist())


@pytest.mark.parametrize("partitioner", PARTITIONERS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_no_patient_is_divided(tmp_path, partitioner, seed):
    rows = make_rows(tmp_path, client=isinstance(partitioner, NaturalIdPartitioner))
    options = {"partitioner": partitioner, "clients_per_domain": 3, "seed": seed}
    data = load(tmp_path, rows, **options)
    domain = data.domains["clinic"]
    held_out, trained = find_patients(domain.test_samples), find_patients(domain.train_samples)
    assert not held_out & trained and held_out | trained == set(range(20))
    owner = defaultdict(set)
    for client in data.clients:
        for patient in find_patients(domain.train_samples[client.indices]):
            owner[patient].add(client.client_id)
        sizes = np.bincount((domain.train_samples[client.indices, 0, 0, 0] // 10).numpy())
        assert all(size in (0, 1 + patient % 5) for patient, size in enumerate(sizes))
    assert all(len(clients) == 1 for clients in owner.values())
    if not isinstance(partitioner, LabelExclusionPartitioner):
        assert sum(data.client_sizes.values()) == len(domain.train_labels)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_whole_patients_come_near_the_fraction_of_each_class(fraction, size):
    files = [
        SourceFile(f"{label}{patient}{n}", label, patient=f"{label}{patient}")
        for label in "ab"
        for patient in range(30)
        for n in range(size)
    ]
    marked = hold_out(files, fraction)
    for label in "ab":
        share = sum(f.is_test for f in marked if f.class_name == label) / (30 * size)
        assert abs(share - fraction) <= 0.5 / 30 + 1e-9
    sides = defaultdict(set)
    for file in marked:
        sides[file.patient].add(file.is_test)
    assert all(len(side) == 1 for side in sides.values())


def test_of_two_patients_of_a_class_one_is_held_out():
    files = [
        SourceFile(f"{p}{n}", "a", patient=p) for p, k in (("x", 9), ("y", 2)) for n in range(k)
    ]
    assert {f.patient for f in hold_out(files, 0.01) if f.is_test} == {"y"}
    assert not any(f.is_test for f in hold_out(files[:9], 0.5))


def test_one_patient_alone_cannot_be_split(tmp_path):
    rows = [row | {"patient": "P0"} for row in make_rows(tmp_path)]
    with pytest.raises(DataError, match="60 usable files of 1 patients are too few to train on"):
        _ = load(tmp_path, rows).domains


def test_more_clients_than_patients_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"clinic: 30 clients for 1\d patients; lower clients_per_"):
        _ = load(tmp_path, make_rows(tmp_path), clients_per_domain=30).clients


def test_a_split_that_divides_a_patient_is_named_then_fatal_or_mended(tmp_path):
    rows = make_rows(tmp_path, split=lambda p, n: "test" if n == 0 and p % 4 == 0 else "train")
    with pytest.raises(DataError, match=r"\d+ x training file of a patient who is held out"):
        _ = load(tmp_path, rows).domains
    with pytest.warns(UserWarning, match="training file of a patient who is held out"):
        domain = load(tmp_path, rows, on_bad_data="skip").domains["clinic"]
    assert find_patients(domain.test_samples) == {0, 4, 8, 12, 16}
    assert not find_patients(domain.train_samples) & {0, 4, 8, 12, 16}


def test_a_patient_of_two_clients_is_named(tmp_path):
    rows = make_rows(tmp_path, client=True)
    rows[-1]["client"] = "h9"
    options = {"partitioner": NaturalIdPartitioner(), "clients_per_domain": 3}
    with pytest.raises(
        DataError, match=r"1 x file of a patient whom another client has, too \(pics"
    ):
        _ = load(tmp_path, rows, **options).domains


def test_a_row_without_patient_is_bad(tmp_path):
    rows = make_rows(tmp_path)
    rows[3]["patient"] = ""
    with pytest.raises(DataError, match=r"1 x row without patient \(line 5\)"):
        _ = load(tmp_path, rows).domains


def test_a_cap_of_samples_divides_no_patient_among_clients(tmp_path):
    data = load(tmp_path, make_rows(tmp_path), clients_per_domain=3, samples_per_client=4)
    samples = data.domains["clinic"].train_samples
    seen = [find_patients(samples[client.indices]) for client in data.clients]
    assert [len(c) for c in data.clients] == [4, 4, 4]
    assert sum(map(len, seen)) == len(set.union(*seen))


class Own(FederatedDataModule):
    def __init__(self, patients, keys=None, **kwargs):
        super().__init__(**kwargs)
        self.patients, self.keys = patients, keys

    def load_domains(self):
        samples = np.zeros((12, 1, 4, 4), np.uint8)
        labels = np.arange(12) % 2
        return [Domain("own", samples, labels, samples, labels, self.keys, (), self.patients)]


def test_a_datamodule_of_ones_own_may_know_its_patients():
    data = Own([f"P{n // 3}" for n in range(12)], clients_per_domain=4)
    owned = sorted(client.indices.tolist() for client in data.clients)
    assert owned == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    ("patients", "keys", "message"),
    [
        (["a"] * 11, None, "domain own: 11 patients for 12 samples"),
        (["a"] * 11 + [None], None, "domain own: some patients are missing"),
        (["a"] * 12, list("xy" * 6), "domain own: some patients have two keys"),
    ],
)
def test_patients_that_do_not_fit_are_refused(patients, keys, message):
    with pytest.raises(DataError, match=message):
        _ = Own(patients, keys).domains
