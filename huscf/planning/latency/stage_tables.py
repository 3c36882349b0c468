"""Seconds of each stage of a step as maxima and sums over devices, for many plans at once.

Both latency models have one shape. A unit (a client, or a group of clients that share their
cuts) adds to a stage a few terms that depend on its own cuts only. Some terms are combined over
all units by their maximum (arrival times), the others by their sum (queues). A short recursion of
maxima and sums over the combined terms then gives the stage's seconds. One description serves
the evaluation of thousands of plans, the proof by linear programming, and grouping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A term that the recursion refers to: a name of the stage's max or sum terms, or an earlier node.
Node = tuple[str, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True)
class Stage:
    """One stage of a step for one network.

    Args:
        name: Name in the latency breakdown.
        max_terms: Name -> (units, options) seconds; combined by the maximum over units. 0 means
            that the term does not apply.
        sum_terms: Name -> (units, options) seconds; combined by the sum over units.
        nodes: Recursion in order: (name, alternatives), the node's value being the largest
            alternative and an alternative the sum of the terms and nodes it names. The last
            node is the stage's seconds.
        repeats: How often a step runs the stage; may be a fraction.
    """

    name: str
    max_terms: dict[str, Floats]
    sum_terms: dict[str, Floats]
    nodes: tuple[Node, ...]
    repeats: float = 1.0


@dataclass(frozen=True)
class StageTables:
    """All stages of one network, stacked for evaluation.

    Args:
        max_table: (units, options, max terms) seconds.
        sum_table: (units, options, sum terms) seconds.
        nodes: Alternatives of each node as columns [max terms | sum terms | nodes].
        outputs: (stage name, column of its seconds, repeats).
    """

    max_table: Floats
    sum_table: Floats
    nodes: tuple[tuple[tuple[int, ...], ...], ...]
    outputs: tuple[tuple[str, int, float], ...]

    @cached_property
    def num_terms(self) -> int:
        """Return the number of max and sum terms, the column of the first node."""
        return self.max_table.shape[2] + self.sum_table.shape[2]

    def combine(self, choices: Ints) -> Floats:
        """Combine the terms over the units.

        Args:
            choices: (plans, units) option of each unit.

        Returns:
            (terms, plans) seconds.
        """
        units = np.arange(choices.shape[1])
        largest = self.max_table[units, choices].max(axis=1)
        total = self.sum_table[units, choices].sum(axis=1)
        return np.concatenate([largest, total], axis=1).T

    def finish(self, terms: Floats) -> Floats:
        """Run the recursion.

        Args:
            terms: (terms, plans) seconds from `combine`.

        Returns:
            (stages, plans) seconds, repeats included.
        """
        columns = list(terms)
        for alternatives in self.nodes:
            value = _add(columns, alternatives[0])
            for alternative in alternatives[1:]:
                value = np.maximum(value, _add(columns, alternative))
            columns.append(value)
        return np.stack([columns[column] * repeats for _, column, repeats in self.outputs])

    def seconds(self, choices: Ints) -> Floats:
        """Return the (plans,) seconds of all stages together for (plans, units) options."""
        return self.finish(self.combine(choices)).sum(axis=0)

    def merge(self, members: Sequence[Ints]) -> "StageTables":
        """Return the tables of groups of units whose members always share an option.

        Args:
            members: Units of each group.
        """
        return StageTables(
            np.stack([self.max_table[units].max(axis=0) for units in members]),
            np.stack([self.sum_table[units].sum(axis=0) for units in members]),
            self.nodes,
            self.outputs,
        )


def stack_stages(stages: Sequence[Stage]) -> StageTables:
    """Put the stages of one network side by side."""
    max_keys = [(s, name) for s, stage in enumerate(stages) for name in stage.max_terms]
    sum_keys = [(s, name) for s, stage in enumerate(stages) for name in stage.sum_terms]
    node_keys = [(s, name) for s, stage in enumerate(stages) for name, _ in stage.nodes]
    column = {key: place for place, key in enumerate(max_keys + sum_keys + node_keys)}
    nodes = tuple(
        tuple(tuple(column[s, name] for name in alternative) for alternative in alternatives)
        for s, stage in enumerate(stages)
        for _, alternatives in stage.nodes
    )
    outputs = tuple(
        (stage.name, column[s, stage.nodes[-1][0]], stage.repeats) for s, stage in enumerate(stages)
    )
    return StageTables(
        np.stack([stages[s].max_terms[name] for s, name in max_keys], axis=2),
        np.stack([stages[s].sum_terms[name] for s, name in sum_keys], axis=2),
        nodes,
        outputs,
    )


def _add(columns: Sequence[Floats], alternative: tuple[int, ...]) -> Floats:
    value = columns[alternative[0]]
    for column in alternative[1:]:
        value = value + columns[column]
    return value
