"""A sum over a fixed list of leaves, whose bits depend neither on threads nor on processes."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")

#: (level, i) stands for the leaves i * 2**level up to (i + 1) * 2**level - 1.
Node = tuple[int, int]


class TreeSum(Generic[ValueT]):
    """Joins values as they come, in any order, along a balanced binary tree.

    Who computes a node does not matter: every division of the leaves gives the same bits.

    Args:
        count: Number of leaves.
        join: Adds a right value to a left one, and returns it; may change the left one.

    Attributes:
        nodes: What waits for its sibling, by node; None where no leaf below has a value.
    """

    def __init__(self, count: int, join: Callable[[ValueT, ValueT], ValueT]) -> None:
        self.count = count
        self.join = join
        self.nodes: dict[Node, ValueT | None] = {}
        self._lock = Lock()

    def add(self, leaf: int, value: ValueT | None) -> None:
        """Give a leaf its value, or None; threads may do so for different leaves."""
        self.put((0, leaf), value)

    def put(self, node: Node, value: ValueT | None) -> None:
        """Give a whole node its value, and join it with what is complete beside it."""
        level, index = node
        while self.count > 1 << level:
            sibling = index ^ 1
            if sibling << level < self.count:  # else there are no leaves on that side
                with self._lock:
                    if (level, sibling) not in self.nodes:
                        self.nodes[level, index] = value
                        return
                    other = self.nodes.pop((level, sibling))
                left, right = (other, value) if index & 1 else (value, other)
                both = left is not None and right is not None
                value = self.join(left, right) if both else (right if left is None else left)  # type: ignore[arg-type]
            level, index = level + 1, index >> 1
        self.nodes[level, index] = value

    def result(self) -> ValueT | None:
        """Return the whole, once every leaf has been added; None where none has a value."""
        if not self.nodes:
            return None
        ((_, value),) = self.nodes.items()
        return value
