"""The rows and costs of the linear program: stages, memory, limits and the common boundary."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..latency.stage_tables import Floats, Ints
from ..problem.network_choices import NetworkChoices
from ..problem.plan_problem import PlanProblem

# The solver's tolerances are absolute, 1e-6 at most: of figures of about 100 they are 1e-8. Of
# larger ones it repairs plans, and prints that.
MAGNITUDE = 1e2


@dataclass
class Rows:
    """Rows `lower <= coefficients @ variables <= upper`, gathered in coordinate form."""

    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def add(
        self,
        columns: Sequence[int] | Ints,
        values: Sequence[float] | Floats,
        lower: float,
        upper: float = np.inf,
    ) -> None:
        """Add one row."""
        self.rows += [len(self.lower)] * len(columns)
        self.columns += [int(column) for column in columns]
        self.values += [float(value) for value in values]
        self.lower.append(lower)
        self.upper.append(upper)


@dataclass(frozen=True)
class Layout:
    """Where one network's variables lie: x (units * options), max terms, nodes."""

    choices: NetworkChoices
    start: int

    @property
    def shape(self) -> tuple[int, int]:
        """Return units and options."""
        return self.choices.memory_bytes.shape[0], self.choices.memory_bytes.shape[1]

    @property
    def num_picks(self) -> int:
        """Return the number of choices to make between 0 and 1."""
        return self.shape[0] * self.shape[1]

    @property
    def size(self) -> int:
        """Return the number of variables."""
        tables = self.choices.tables
        return self.num_picks + tables.max_table.shape[2] + len(tables.nodes)

    def picks(self, unit: int) -> Ints:
        """Return the columns of one unit's options."""
        first = self.start + unit * self.shape[1]
        return np.arange(first, first + self.shape[1])

    def all_picks(self) -> Ints:
        """Return the columns of all units' options."""
        return np.arange(self.start, self.start + self.num_picks)


def add_stages(layout: Layout, rows: Rows) -> None:
    """Give each unit one option, and bind terms and nodes to what is chosen."""
    tables = layout.choices.tables
    num_max = tables.max_table.shape[2]
    first_term = layout.start + layout.num_picks
    for unit in range(layout.shape[0]):
        rows.add(layout.picks(unit), np.ones(layout.shape[1]), 1.0, 1.0)
        for term in range(num_max):
            values = tables.max_table[unit, :, term]
            used = np.flatnonzero(values)
            if len(used):
                columns = [first_term + term, *layout.picks(unit)[used]]
                rows.add(columns, [1.0, *-values[used]], 0.0)
    sums = tables.sum_table.reshape(layout.num_picks, -1)
    for index, alternatives in enumerate(tables.nodes):
        for alternative in alternatives:
            _add_alternative(layout, rows, sums, index, alternative)


def _add_alternative(
    layout: Layout, rows: Rows, sums: Floats, node: int, alternative: tuple[int, ...]
) -> None:
    num_max = layout.choices.tables.max_table.shape[2]
    first_term = layout.start + layout.num_picks
    first_node = first_term + num_max
    columns, values = [first_node + node], [1.0]
    linear = np.zeros(layout.num_picks)
    for column in alternative:
        if column < num_max:
            columns.append(first_term + column)
            values.append(-1.0)
        elif column < layout.choices.tables.num_terms:
            linear -= sums[:, column - num_max]
        else:
            columns.append(first_node + column - layout.choices.tables.num_terms)
            values.append(-1.0)
    used = np.flatnonzero(linear)
    rows.add([*columns, *layout.all_picks()[used]], [*values, *linear[used]], 0.0)


def _make_latency(layout: Layout, size: int) -> Floats:
    tables = layout.choices.tables
    cost = np.zeros(size)
    first_node = layout.start + layout.num_picks + tables.max_table.shape[2]
    for _, column, repeats in tables.outputs:
        cost[first_node + column - tables.num_terms] = repeats
    return cost


def _make_linear(layout: Layout, size: int, figures: Floats) -> Floats:
    cost = np.zeros(size)
    cost[layout.all_picks()] = figures.ravel()
    return cost


def make_cost(problem: PlanProblem, layout: Layout, size: int, seconds: float) -> Floats:
    """Return the (variables,) share of one network in the objective."""
    goal, choices = problem.objective, layout.choices
    latency = goal.latency_weight * seconds * _make_latency(layout, size)
    return latency + _make_linear(layout, size, choices.weigh(goal))


def add_memory(problem: PlanProblem, layouts: Sequence[Layout], rows: Rows) -> None:
    """Forbid each unit the combinations of options that do not fit its memory."""
    *firsts, last = layouts
    for unit, fits in enumerate(problem.is_feasible):
        for options in np.argwhere(~fits.all(axis=-1)):
            chosen = [int(one.picks(unit)[o]) for one, o in zip(firsts, options, strict=True)]
            columns = [*chosen, *last.picks(unit)[~fits[tuple(options)]]]
            rows.add(columns, np.ones(len(columns)), -np.inf, float(len(firsts)))


def add_limits(
    problem: PlanProblem, layouts: Sequence[Layout], rows: Rows, size: int, seconds: float
) -> None:
    """Keep latency, traffic and energy below their limits."""
    limits = problem.constraints
    latency, traffic, energy = (np.zeros(size) for _ in range(3))
    for layout in layouts:
        latency += seconds * _make_latency(layout, size)
        traffic += _make_linear(layout, size, layout.choices.traffic_bytes)
        energy += _make_linear(layout, size, layout.choices.energy_j)
    for limit, figures in (
        (limits.max_latency_s, latency),
        (limits.max_bytes_per_step, traffic),
        (limits.max_energy_j, energy),
    ):
        if limit is not None:
            used = np.flatnonzero(figures)
            rows.add(used, figures[used] / limit * MAGNITUDE, -np.inf, MAGNITUDE)


def add_boundary(layout: Layout, rows: Rows, boundaries: Ints) -> None:
    """Choose one boundary (1, 2, ...); no head may go beyond it and no tail begin before it."""
    ones = np.ones(len(boundaries))
    rows.add(boundaries, ones, 1.0, 1.0)
    head, tail = layout.choices.options.T
    stop = len(boundaries) + 1 - tail
    for place in range(1, len(boundaries) + 1):
        for is_beyond, chosen in (
            (head > place, boundaries[:place]),
            (stop < place, boundaries[place - 1 :]),
        ):
            for unit in range(layout.shape[0]) if is_beyond.any() else ():
                columns = [*layout.picks(unit)[is_beyond], *chosen]
                rows.add(columns, np.ones(len(columns)), -np.inf, 1.0)
