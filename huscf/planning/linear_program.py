"""The planning problem as a mixed-integer linear program, for proofs and lower bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .network_choices import NetworkChoices
from .problem import PlanProblem
from .stage_tables import Floats, Ints

# The solver's tolerances are absolute, 1e-6 at most: of figures of about 100 they are 1e-8. Of
# larger ones it repairs plans, and prints that.
_MAGNITUDE = 1e2


@dataclass(frozen=True)
class ProgramAnswer:
    """What the solver found.

    Args:
        solution: (units, 2) option indices, or None where there is none.
        lower_bound: Proven lower bound of the objective; inf where no plan can exist.
        is_optimal: Whether the solver is done, and thus the solution the best, to its tolerances,
            among plans with one cut per unit.
    """

    solution: Ints | None
    lower_bound: float
    is_optimal: bool


@dataclass
class _Rows:
    """Rows `coefficients @ variables >= lower`, gathered in coordinate form."""

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
        self.rows += [len(self.lower)] * len(columns)
        self.columns += [int(column) for column in columns]
        self.values += [float(value) for value in values]
        self.lower.append(lower)
        self.upper.append(upper)


@dataclass(frozen=True)
class _Block:
    """Where one network's variables lie: x (units * options), max terms, nodes."""

    choices: NetworkChoices
    start: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.choices.memory_bytes.shape[0], self.choices.memory_bytes.shape[1]

    @property
    def num_picks(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def size(self) -> int:
        tables = self.choices.tables
        return self.num_picks + tables.max_table.shape[2] + len(tables.nodes)

    def picks(self, unit: int) -> Ints:
        first = self.start + unit * self.shape[1]
        return np.arange(first, first + self.shape[1])

    def all_picks(self) -> Ints:
        return np.arange(self.start, self.start + self.num_picks)


def solve_program(problem: PlanProblem, time_limit_s: float = 60.0) -> ProgramAnswer:
    """Solve the problem to proven optimality, as far as the time allows.

    Args:
        problem: What to solve, with any constraints and objective.
        time_limit_s: Solver time after which the best plan so far is taken.
    """
    return _solve(problem, True, time_limit_s)


def bound_by_relaxation(problem: PlanProblem, time_limit_s: float = 60.0) -> float:
    """Return a proven lower bound of the objective: the program with fractional choices.

    It holds for every plan, also for one that treats clients of one unit differently: averaging
    such a plan over a unit gives a fractional choice that is no worse. `common_boundary` is left
    out, as it can only raise the optimum.
    """
    return _solve(problem, False, time_limit_s).lower_bound


def _solve(problem: PlanProblem, is_integral: bool, time_limit_s: float) -> ProgramAnswer:
    if problem.limits_memory or problem.constraints.has_limits:
        return _solve_networks(problem, (0, 1), is_integral, time_limit_s)
    # Nothing ties the two networks together: two small programs instead of one large one.
    parts = [_solve_networks(problem, (i,), is_integral, time_limit_s / 2) for i in (0, 1)]
    first, second = (part.solution for part in parts)
    solution = None
    if first is not None and second is not None:
        solution = np.stack([first[:, 0], second[:, 1]], axis=1)
    bound = sum(part.lower_bound for part in parts)
    return ProgramAnswer(solution, bound, all(part.is_optimal for part in parts))


def _solve_networks(
    problem: PlanProblem, wanted: tuple[int, ...], is_integral: bool, time_limit_s: float
) -> ProgramAnswer:
    # Imported here: half a second that plans without a proof need not cost.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    seconds, value = _choose_scales(problem, wanted)
    blocks = _lay_out(problem, wanted, seconds)
    size = sum(block.size for block in blocks)
    boundaries = np.arange(0)
    if is_integral and problem.constraints.common_boundary and 1 in wanted:
        boundaries = size + np.arange(problem.num_blocks[1] - 1)
        size += len(boundaries)
    rows, cost = _Rows(), np.zeros(size)
    upper, integrality = np.full(size, np.inf), np.zeros(size)
    for block in blocks:
        _add_stages(block, rows)
        cost += _make_cost(problem, block, size, seconds) / value
        upper[block.all_picks()] = 1.0
        integrality[block.all_picks()] = float(is_integral)
    if len(boundaries):
        _add_boundary(blocks[-1], rows, boundaries)
        integrality[boundaries] = 1.0
    if len(blocks) == 2:
        _add_memory(problem, blocks, rows)
        _add_limits(problem, blocks, rows, size, seconds)
    matrix = csr_array((rows.values, (rows.rows, rows.columns)), shape=(len(rows.lower), size))
    answer = milp(
        cost,
        integrality=integrality,
        bounds=Bounds(0.0, upper),
        constraints=LinearConstraint(matrix, np.array(rows.lower), np.array(rows.upper)),
        options={"time_limit": time_limit_s, "mip_rel_gap": 1e-9},
    )
    if answer.status == 2:
        return ProgramAnswer(None, np.inf, False)
    bound = answer.fun if not is_integral and answer.status == 0 else answer.mip_dual_bound
    solution = None if answer.x is None else _read_solution(problem, blocks, wanted, answer.x)
    return ProgramAnswer(solution, float(bound or 0.0) * value, answer.status == 0)


def _choose_scales(problem: PlanProblem, wanted: tuple[int, ...]) -> tuple[float, float]:
    """Return seconds and objective to divide by: the best that treat all alike have _MAGNITUDE."""
    seconds, value, goal = 0.0, 0.0, problem.objective
    for choices in (problem.networks[index] for index in wanted):
        options = np.arange(len(choices.options))
        by_option = choices.tables.seconds(np.repeat(options[:, None], len(problem.units), axis=1))
        seconds += by_option.min()
        by_option = goal.latency_weight * by_option
        by_option += goal.bytes_weight * choices.traffic_bytes.sum(axis=0)
        by_option += goal.energy_weight * choices.energy_j.sum(axis=0)
        value += by_option.min()
    return seconds / _MAGNITUDE, value / _MAGNITUDE


def _lay_out(problem: PlanProblem, wanted: tuple[int, ...], seconds: float) -> list[_Block]:
    """Lay out the variables; all times are multiples of so many seconds."""
    blocks: list[_Block] = []
    for index in wanted:
        start = sum(block.size for block in blocks)
        choices = problem.networks[index]
        tables = replace(
            choices.tables,
            max_table=choices.tables.max_table / seconds,
            sum_table=choices.tables.sum_table / seconds,
        )
        blocks.append(_Block(replace(choices, tables=tables), start))
    return blocks


def _add_stages(block: _Block, rows: _Rows) -> None:
    tables = block.choices.tables
    num_max = tables.max_table.shape[2]
    first_term = block.start + block.num_picks
    for unit in range(block.shape[0]):
        rows.add(block.picks(unit), np.ones(block.shape[1]), 1.0, 1.0)
        for term in range(num_max):
            values = tables.max_table[unit, :, term]
            used = np.flatnonzero(values)
            if len(used):
                columns = [first_term + term, *block.picks(unit)[used]]
                rows.add(columns, [1.0, *-values[used]], 0.0)
    sums = tables.sum_table.reshape(block.num_picks, -1)
    for index, alternatives in enumerate(tables.nodes):
        for alternative in alternatives:
            _add_alternative(block, rows, sums, index, alternative)


def _add_alternative(
    block: _Block, rows: _Rows, sums: Floats, node: int, alternative: tuple[int, ...]
) -> None:
    num_max = block.choices.tables.max_table.shape[2]
    first_term = block.start + block.num_picks
    first_node = first_term + num_max
    columns, values = [first_node + node], [1.0]
    linear = np.zeros(block.num_picks)
    for column in alternative:
        if column < num_max:
            columns.append(first_term + column)
            values.append(-1.0)
        elif column < block.choices.tables.num_terms:
            linear -= sums[:, column - num_max]
        else:
            columns.append(first_node + column - block.choices.tables.num_terms)
            values.append(-1.0)
    used = np.flatnonzero(linear)
    rows.add([*columns, *block.all_picks()[used]], [*values, *linear[used]], 0.0)


def _make_latency(block: _Block, size: int) -> Floats:
    tables = block.choices.tables
    cost = np.zeros(size)
    first_node = block.start + block.num_picks + tables.max_table.shape[2]
    for _, column, repeats in tables.outputs:
        cost[first_node + column - tables.num_terms] = repeats
    return cost


def _make_linear(block: _Block, size: int, figures: Floats) -> Floats:
    cost = np.zeros(size)
    cost[block.all_picks()] = figures.ravel()
    return cost


def _make_cost(problem: PlanProblem, block: _Block, size: int, seconds: float) -> Floats:
    goal, choices = problem.objective, block.choices
    return (
        goal.latency_weight * seconds * _make_latency(block, size)
        + goal.bytes_weight * _make_linear(block, size, choices.traffic_bytes)
        + goal.energy_weight * _make_linear(block, size, choices.energy_j)
    )


def _add_memory(problem: PlanProblem, blocks: Sequence[_Block], rows: _Rows) -> None:
    """Forbid each unit the pairs of options that do not fit its memory."""
    for unit, fits in enumerate(problem.is_feasible):
        for option in np.flatnonzero(~fits.all(axis=1)):
            partners = blocks[1].picks(unit)[~fits[option]]
            columns = [int(blocks[0].picks(unit)[option]), *partners]
            rows.add(columns, np.ones(len(columns)), -np.inf, 1.0)


def _add_limits(
    problem: PlanProblem, blocks: Sequence[_Block], rows: _Rows, size: int, seconds: float
) -> None:
    limits = problem.constraints
    latency, traffic, energy = (np.zeros(size) for _ in range(3))
    for block in blocks:
        latency += seconds * _make_latency(block, size)
        traffic += _make_linear(block, size, block.choices.traffic_bytes)
        energy += _make_linear(block, size, block.choices.energy_j)
    for limit, figures in (
        (limits.max_latency_s, latency),
        (limits.max_bytes_per_step, traffic),
        (limits.max_energy_j, energy),
    ):
        if limit is not None:
            used = np.flatnonzero(figures)
            rows.add(used, figures[used] / limit * _MAGNITUDE, -np.inf, _MAGNITUDE)


def _add_boundary(block: _Block, rows: _Rows, boundaries: Ints) -> None:
    """Choose one boundary (1, 2, ...); no head may go beyond it and no tail begin before it."""
    ones = np.ones(len(boundaries))
    rows.add(boundaries, ones, 1.0, 1.0)
    head, tail = block.choices.options.T
    stop = len(boundaries) + 1 - tail
    for place in range(1, len(boundaries) + 1):
        for is_beyond, chosen in (
            (head > place, boundaries[:place]),
            (stop < place, boundaries[place - 1 :]),
        ):
            for unit in range(block.shape[0]) if is_beyond.any() else ():
                columns = [*block.picks(unit)[is_beyond], *chosen]
                rows.add(columns, np.ones(len(columns)), -np.inf, 1.0)


def _read_solution(
    problem: PlanProblem, blocks: Sequence[_Block], wanted: tuple[int, ...], values: NDArray
) -> Ints:
    solution = np.zeros((len(problem.units), 2), dtype=np.int64)
    for index, block in zip(wanted, blocks, strict=True):
        picks = values[block.all_picks()].reshape(block.shape)
        solution[:, index] = picks.argmax(axis=1)
    return solution
