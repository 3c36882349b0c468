"""A seeded, elitist genetic search over units, not over clients."""

from dataclasses import dataclass

import numpy as np

from ...errors import PlanError
from ..latency.stage_tables import Floats, Ints
from ..problem.plan_problem import PlanProblem
from .best_response import anneal_by_turns, improve_by_turns

# Falling weights of a unit's own path; measured in benchmarks/planning.py.
TURN_WEIGHTS = (0.03, 0.01, 0.0)


@dataclass(frozen=True)
class GeneticSettings:
    """How the genetic search runs.

    Args:
        population: Plans alive at a time, at least 8.
        generations: Most generations, at least 1.
        tournament: Plans that compete to be a parent, at least 1.
        elites: Best plans that live on unchanged, at least 1.
        patience: Generations without progress after which it stops.
        max_groups: Above this many units, similar ones share their cuts in the search; each
            then improves its own.
        polish_sweeps: Most rounds of turns, per level of patience, in which each unit improves
            its own cuts after the search.
    """

    population: int = 400
    generations: int = 200
    tournament: int = 3
    elites: int = 4
    patience: int = 40
    max_groups: int = 30
    polish_sweeps: int = 3

    def __post_init__(self) -> None:
        least = {"population": 8, "generations": 1, "tournament": 1, "elites": 1, "max_groups": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise PlanError(f"{name} is {getattr(self, name)}, must be >= {bound}")


def search_genetically(
    problem: PlanProblem,
    seed: int,
    settings: GeneticSettings | None = None,
    warm_start: Ints | None = None,
) -> Ints:
    """Return a plan of low score; one with a common boundary is for `search_comparable`.

    Source: the genetic search of arXiv:2507.12979, by profile instead of client; with tournament
        selection, uniform crossover and a mutation rate of 1 / genes.

    Args:
        problem: What to search.
        seed: Seed of all random choices.
        settings: How; None takes the defaults.
        warm_start: (plans, units, networks) plans to start from beside random ones, best first.

    Returns:
        (units, networks) option indices.
    """
    settings = settings or GeneticSettings()
    rng = np.random.default_rng(seed)
    members = group_units(problem, settings.max_groups, rng)
    if members is None:
        best = _evolve(problem, rng, settings, warm_start)
        return improve_by_turns(problem, best, settings.polish_sweeps)[0]
    leaders = [group[0] for group in members]
    start = None if warm_start is None else warm_start[:, leaders]
    shared = _evolve(problem.merge(members), rng, settings, start)
    lifted = np.empty((len(problem.units), len(problem.networks)), dtype=np.int64)
    for place, group in enumerate(members):
        lifted[group] = shared[place]
    polished, _ = anneal_by_turns(problem, lifted, settings.polish_sweeps, TURN_WEIGHTS)
    if warm_start is None:
        return polished
    candidates = np.stack([polished, warm_start[0]])
    best = candidates[problem.score(candidates).argmin()]
    return best


def draw_solutions(problem: PlanProblem, number: int, rng: np.random.Generator) -> Ints:
    """Return (number, units, networks) random plans that fit every device's memory."""
    solutions = np.empty((number, len(problem.units), len(problem.networks)), dtype=np.int64)
    for unit, fits in enumerate(problem.is_feasible):
        pairs = np.argwhere(fits)
        solutions[:, unit] = pairs[rng.integers(len(pairs), size=number)]
    return solutions


def _evolve(
    problem: PlanProblem,
    rng: np.random.Generator,
    settings: GeneticSettings,
    warm_start: Ints | None,
) -> Ints:
    population = _start(problem, rng, settings.population, warm_start)
    scores = problem.score(population)
    best_score, idle = np.inf, 0
    for _ in range(settings.generations):
        order = np.argsort(scores, kind="stable")
        population, scores = population[order], scores[order]
        idle = 0 if scores[0] < best_score - 1e-12 * abs(best_score or 1.0) else idle + 1
        best_score = min(best_score, float(scores[0]))
        if idle >= settings.patience:
            break
        children = _breed(problem, population, scores, rng, settings)
        child_scores = problem.score(children)
        population = np.concatenate([population[: settings.elites], children])
        scores = np.concatenate([scores[: settings.elites], child_scores])
    best: Ints = population[scores.argmin()]
    return best


def _start(
    problem: PlanProblem, rng: np.random.Generator, number: int, warm_start: Ints | None
) -> Ints:
    """Return the first generation: uniform plans, warm ones with mutants of the best, random."""
    parts = [list_uniform(problem)]
    if warm_start is not None:
        kept = warm_start[: number // 4]
        mutants = np.repeat(warm_start[:1], number // 4, axis=0)
        parts = [kept, _mutate(problem, mutants, rng, 0.15)]
    known = np.concatenate(parts)[: number - number // 4]
    return np.concatenate([known, draw_solutions(problem, number - len(known), rng)])


def list_uniform(problem: PlanProblem) -> Ints:
    """Return all (plans, units, networks) plans that treat every unit alike and fit its memory.

    Empty where the constraints leave no such plan.
    """
    pairs = np.argwhere(problem.is_feasible.all(axis=0))
    return np.repeat(pairs[:, None], len(problem.units), axis=1)


def _breed(
    problem: PlanProblem,
    population: Ints,
    scores: Floats,
    rng: np.random.Generator,
    settings: GeneticSettings,
) -> Ints:
    number = len(population) - settings.elites
    draws = rng.integers(len(population), size=(2, number, settings.tournament))
    # The population is sorted, so the lowest place wins a tournament.
    mothers, fathers = population[draws.min(axis=2)]
    takes_mother = rng.random(mothers.shape) < 0.5
    children = np.where(takes_mother, mothers, fathers)
    return _mutate(problem, children, rng, 1 / children[0].size)


def _mutate(problem: PlanProblem, solutions: Ints, rng: np.random.Generator, rate: float) -> Ints:
    numbers = [len(choices.options) for choices in problem.networks]
    fresh = np.stack([rng.integers(n, size=solutions.shape[:2]) for n in numbers], axis=2)
    return np.where(rng.random(solutions.shape) < rate, fresh, solutions)


def group_units(
    problem: PlanProblem, max_groups: int, rng: np.random.Generator
) -> list[Ints] | None:
    """Return the units of each group of similar ones, or None where there are few enough."""
    if len(problem.units) <= max_groups:
        return None
    figures = np.log(
        [
            (
                unit.profile.speed_flops_per_s,
                unit.profile.uplink_bits_per_s,
                unit.profile.downlink_bits_per_s,
                unit.batch_size,
            )
            for unit in problem.units
        ]
    )
    spread = figures.std(axis=0)
    labels = cluster_points(figures / np.where(spread > 1e-9, spread, 1.0), max_groups, rng)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def cluster_points(points: Floats, number: int, rng: np.random.Generator, rounds: int = 25) -> Ints:
    """Return the (points,) labels of Lloyd's k-means, started at far-apart points.

    Args:
        points: (points, features).
        number: Most clusters.
        rng: Draws the first centre.
        rounds: Iterations.
    """
    centres = points[rng.integers(len(points))][None]
    distance = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < number and distance.max() > 0:
        centres = np.concatenate([centres, points[distance.argmax()][None]])
        distance = np.minimum(distance, ((points - centres[-1]) ** 2).sum(axis=1))
    labels = np.zeros(len(points), dtype=np.int64)
    for _ in range(rounds):
        gaps = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
        labels = gaps.argmin(axis=1)
        for label in np.unique(labels):
            centres[label] = points[labels == label].mean(axis=0)
    return labels
