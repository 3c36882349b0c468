import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from huscf.datamodules import (
    DirichletPartitioner,
    Domain,
    IidPartitioner,
    LabelExclusionPartitioner,
    NaturalIdPartitioner,
    QuantitySkewPartitioner,
)
from huscf.errors import DataError, HuscfError

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)
MANY_LABELS = st.lists(st.integers(0, 6), min_size=80, max_size=200).map(np.array)
CLIENTS = st.integers(1, 12)
SEEDS = st.integers(0, 2**32)
SMALLEST = 2

SKEWED = [
    DirichletPartitioner(0.01),
    DirichletPartitioner(0.5),
    DirichletPartitioner(1e5),
    QuantitySkewPartitioner(0.01),
    QuantitySkewPartitioner(5.0),
]
EXCLUSIONS = [
    LabelExclusionPartitioner({0: 0.25, 1: 0.3, 2: 0.1}, {1: 0.7, 0.667: 0.3}),
    LabelExclusionPartitioner({2: 0.4, 3: 0.6}, {1: 0.5, 0.333: 0.3, 0.167: 0.2}),
]


def divide(partitioner, labels, num_clients, seed, keys=None):
    """Divide, or return nothing where the rule says that it cannot be done."""
    try:
        return partitioner.partition(labels, keys, num_clients, np.random.default_rng(seed))
    except DataError as error:
        assert re.search("fewer than|cannot be missing|natural keys", str(error))
        return []


def assert_disjoint(parts, labels):
    together = np.concatenate([*parts, np.empty(0, int)])
    assert len(np.unique(together)) == len(together)
    assert np.isin(together, np.arange(len(labels))).all()
    assert all((np.diff(part) > 0).all() for part in parts)


@given(LABELS, CLIENTS, SEEDS)
def test_iid_is_complete_and_equal(labels, num_clients, seed):
    parts = divide(IidPartitioner(), labels, num_clients, seed)
    sizes = [len(part) for part in parts]
    assert_disjoint(parts, labels)
    assert sum(sizes) == len(labels) and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("partitioner", SKEWED, ids=lambda p: f"{type(p).__name__}-{p.alpha}")
@settings(max_examples=20, deadline=None)
@given(LABELS, CLIENTS, SEEDS)
def test_skewed_parts_are_complete_and_large_enough(partitioner, labels, num_clients, seed):
    parts = divide(partitioner, labels, num_clients, seed)
    assert_disjoint(parts, labels)
    if parts:
        assert len(parts) == num_clients
        assert sum(len(part) for part in parts) == len(labels)
        assert min(len(part) for part in parts) >= SMALLEST


@pytest.mark.parametrize("partitioner", EXCLUSIONS, ids=["scenario 2", "scenario 5"])
@settings(max_examples=40, deadline=None)
@given(MANY_LABELS, CLIENTS, SEEDS)
def test_exclusion_lacks_the_stated_classes(partitioner, labels, num_clients, seed):
    parts = divide(partitioner, labels, num_clients, seed)
    num_classes = len(np.unique(labels))
    fewest = min(partitioner.missing_classes)
    assert_disjoint(parts, labels)
    for part in parts:
        assert SMALLEST <= len(part) <= -(-len(labels) // num_clients)
        assert len(np.unique(labels[part])) <= num_classes - fewest


@settings(max_examples=60, deadline=None)
@given(LABELS, CLIENTS, SEEDS, st.integers(1, 9))
def test_natural_keys_stay_whole(labels, num_clients, seed, num_keys):
    keys = np.random.default_rng(seed).integers(0, num_keys, len(labels)).astype(str)
    parts = divide(NaturalIdPartitioner(), labels, num_clients, seed, keys)
    assert_disjoint(parts, labels)
    assert bool(parts) == (num_clients <= len(set(keys)))
    if not parts:
        return
    assert sum(len(part) for part in parts) == len(labels)
    owners = [set(keys[part]) for part in parts]
    assert sum(len(own) for own in owners) == len(set(keys)) and all(owners)


@pytest.mark.parametrize("partitioner", [IidPartitioner(), *SKEWED, *EXCLUSIONS])
def test_same_seed_gives_same_parts(partitioner):
    labels = np.arange(600) % 7
    first, again, other = (divide(partitioner, labels, 5, seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, other, strict=True))


def test_small_alpha_leaves_few_classes():
    labels = np.arange(5000) % 10
    rng = np.random.default_rng(0)
    few = DirichletPartitioner(0.05).partition(labels, None, 5, rng)
    many = DirichletPartitioner(1000.0).partition(labels, None, 5, rng)
    shares = [np.mean([np.bincount(labels[p]).max() / len(p) for p in q]) for q in (few, many)]
    assert shares[0] > 0.3 and shares[1] < 0.15


def test_exclusion_follows_its_odds():
    labels = np.arange(60000) % 10
    rng = np.random.default_rng(0)
    parts = EXCLUSIONS[1].partition(labels, None, 60, rng)
    missing = [10 - len(np.unique(labels[part])) for part in parts]
    sizes = np.array([len(part) for part in parts])
    assert 0.4 < np.mean(np.equal(missing, 3)) < 0.8
    assert set(missing) == {2, 3}
    assert 0.1 < np.mean(sizes == 167) < 0.3 and 0.15 < np.mean(sizes == 333) < 0.45


def test_one_client_per_key_follows_sorted_keys():
    keys = np.array(["theo", "anna", "theo", "anna", "anna"])
    parts = NaturalIdPartitioner().partition(np.zeros(5), keys, 2, np.random.default_rng(0))
    assert [part.tolist() for part in parts] == [[1, 3, 4], [0, 2]]


def make_domain(keys):
    samples, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    return Domain("x", samples, labels, samples, labels, keys=keys)


@pytest.mark.parametrize(
    "keys", [["a", 1, "a", 1], np.array(["a", 1, "a", 1], object), torch.tensor([1, 2, 1, 2])]
)
def test_a_domains_keys_may_be_of_any_type(keys):
    keys = make_domain(keys).keys
    parts = NaturalIdPartitioner().partition(np.zeros(4), keys, 2, np.random.default_rng(0))
    assert sorted(part.tolist() for part in parts) == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["a", None, "a", "a"], "domain x: some keys are missing"),
        (["a", float("nan"), "a", "a"], "domain x: some keys are missing"),
        (np.array([1, np.nan, 1, 1]), "domain x: some keys are missing"),
        ([["a", "b"]] * 4, "domain x: 4x2 keys for 4 samples"),
        ("a", "domain x: 1 keys for 4 samples"),
    ],
)
def test_keys_that_are_nobodys_are_refused(keys, message):
    with pytest.raises(DataError, match=message):
        make_domain(keys)


@pytest.mark.parametrize(
    ("partitioner", "keys", "message"),
    [
        (DirichletPartitioner(0.5), None, "fewer than 2 samples"),
        (QuantitySkewPartitioner(0.5), None, "fewer than 2 samples"),
        (LabelExclusionPartitioner({0: 1.0}), None, "fewer than 2 samples"),
        (LabelExclusionPartitioner({2: 1.0}), None, "2 classes cannot be missing"),
        (NaturalIdPartitioner(), None, "no natural keys"),
        (NaturalIdPartitioner(), np.array(list("aabb")), "3 clients for 2 natural keys"),
    ],
)
def test_what_cannot_be_divided_says_why(partitioner, keys, message):
    with pytest.raises(DataError, match=message):
        partitioner.partition(np.array([0, 1, 0, 1]), keys, 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DirichletPartitioner(0),
        lambda: QuantitySkewPartitioner(-1),
        lambda: LabelExclusionPartitioner({}),
        lambda: LabelExclusionPartitioner({1: 0.0}),
        lambda: LabelExclusionPartitioner({0: 1.0}, {1.5: 1.0}),
        lambda: LabelExclusionPartitioner({0: float("nan"), 1: 1.0}),
        lambda: LabelExclusionPartitioner({0: float("inf"), 1: 1.0}),
        lambda: LabelExclusionPartitioner({0: 1.0}, {0.5: float("nan"), 1.0: 1.0}),
        lambda: LabelExclusionPartitioner({0: 1.0}, min_partition_size=-1),
        lambda: DirichletPartitioner(0.5, -1),
        lambda: QuantitySkewPartitioner(0.5, -1),
    ],
)
def test_senseless_settings_are_refused(make):
    with pytest.raises(HuscfError):
        make()
