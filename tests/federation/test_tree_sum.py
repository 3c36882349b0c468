"""Sums whose bits depend on the leaves alone."""

import random

import pytest

from huscf.federation import TreeSum


def join(left, right):
    return f"({left}+{right})"


def sum_in_parts(values, cuts, stream):
    """Several processes add their own leaves in any order; one puts their nodes together."""
    whole = TreeSum(len(values), join)
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        part = TreeSum(len(values), join)
        for leaf in stream.sample(range(start, stop), stop - start):
            part.add(leaf, values[leaf])
        for node, value in part.nodes.items():
            whole.put(node, value)
    return whole.result()


def test_leaves_are_joined_in_pairs_of_neighbours():
    total = TreeSum(5, join)
    for leaf in (4, 1, 3, 0, 2):
        total.add(leaf, str(leaf))
    assert total.result() == "(((0+1)+(2+3))+4)"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 21])
def test_neither_order_nor_division_changes_the_sum(count):
    stream = random.Random(count)
    values = [str(leaf) if stream.random() < 0.8 else None for leaf in range(count)]
    expected = sum_in_parts(values, [], stream)
    for _ in range(20):
        num_cuts = stream.randrange(min(count, 5))
        cuts = sorted(stream.sample(range(1, count), num_cuts))
        assert sum_in_parts(values, cuts, stream) == expected


def test_a_sum_of_nothing_is_none():
    assert TreeSum(0, join).result() is None
    empty = TreeSum(2, join)
    empty.add(0, None)
    empty.add(1, None)
    assert empty.result() is None
