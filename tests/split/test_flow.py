"""What crosses a cut."""

import pytest
from torch import nn

from huscf.split import Crossing, find_crossing


class Block(nn.Module):
    def __init__(self, reads="x", writes="x"):
        super().__init__()
        self.reads, self.writes = tuple(reads.split()), tuple(writes.split())


def plain(count):
    return [Block("x labels"), *[Block() for _ in range(count - 1)]]


SKIP = [Block("x labels", "x skip"), Block(), Block("x time"), Block("x skip"), Block("x labels")]


@pytest.mark.parametrize(
    ("blocks", "head", "tail", "expected"),
    [
        (plain(4), 1, 1, Crossing(("x",), ("x",), (), ())),
        (plain(4), 4, 0, Crossing((), (), ("x",), ())),
        (plain(4), 0, 4, Crossing((), (), ("x", "labels"), ())),
        (plain(4), 2, 2, Crossing((), (), ("x",), ())),
        (plain(4), 0, 0, Crossing(("x", "labels"), ("x",), (), ("x", "labels"))),
        (plain(4), 0, 2, Crossing(("x", "labels"), ("x",), (), ("x", "labels"))),
        # The skip and the labels stay at home; the time is read at the server.
        (SKIP, 1, 2, Crossing(("x", "time"), ("x",), ("skip", "labels"), ("time",))),
        (SKIP, 1, 1, Crossing(("x", "time", "skip"), ("x",), ("labels",), ("time",))),
        (SKIP, 3, 1, Crossing(("x", "skip"), ("x",), ("labels",), ())),
        (
            SKIP,
            0,
            2,
            Crossing(("x", "labels", "time"), ("x", "skip"), ("labels",), ("x", "labels", "time")),
        ),
    ],
)
def test_what_crosses_and_what_stays_at_home(blocks, head, tail, expected):
    assert find_crossing(blocks, head, tail) == expected
