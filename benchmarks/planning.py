"""Prints how fast and how good the planning is: python benchmarks/planning.py [--json]."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.stats import spearmanr

from huscf.methods import HuscfGan, request_plan
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.planning import (
    ClientDevice,
    DeviceProfile,
    DevicesFile,
    Fleet,
    GeneticSettings,
    PlanOptions,
    PlanProblem,
    PlanSubject,
    Replanner,
    SearchSettings,
    build_problem,
    decide_by_turns,
    make_problem,
    search_genetically,
    search_plan,
    simulate_step,
)
from huscf.planning.devices.fleet import scale_profile
from huscf.planning.paper.exact_sweep import sweep_thresholds
from huscf.planning.search.best_response import anneal_by_turns
from huscf.planning.search.linear_program import solve_program
from huscf.split import ClientCuts, ClientPlan, CutPlan

DEVICES = yaml.safe_load(
    (Path(__file__).parents[1] / "configs" / "paper" / "devices.yaml").read_text()
)
SEEDS = 20
NETWORKS = ("generator", "discriminator")
#: The searches themselves; `huscf plan` looks for a common boundary besides where they miss one.
FREE = PlanOptions(common_boundary=False)


def main() -> None:
    """Run all parts and print one table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    subject = make_subject(5)
    rows: dict[str, Any] = {}
    for part in (time_paper, prove_corrected, repeat_seeds, compare_plans, replan, simulate):
        rows |= part(subject)
    rows |= plan_different_clients(make_subject(10))
    if arguments.json:
        print(json.dumps(rows))
        return
    for name, value in rows.items():
        print(f"{name:66s} {value:.6g}" if isinstance(value, float) else f"{name:66s} {value}")


def make_subject(depth: int) -> PlanSubject:
    """Return the paper's networks with so many blocks, measured at batch 64."""
    shape = SampleShape(1, 28, 10)
    method = HuscfGan(
        partial(ConditionalGenerator, depth=depth), partial(ConditionalDiscriminator, depth=depth)
    )
    networks = method.build_networks(shape)
    return PlanSubject.measure(request_plan(method, networks, shape, {0: 64}))


def make_fleet(number: int = 100) -> Fleet:
    """Return the paper's devices, spread evenly."""
    names = list(DEVICES["profiles"])
    counts = {name: number // 7 + (i < number % 7) for i, name in enumerate(names)}
    devices = DevicesFile.from_dict({**DEVICES, "assignment": {"counts": counts}})
    return devices.make_fleet(dict.fromkeys(range(number), 64), seed=0)


def take_time(task: Callable[[], Any], repeats: int = 5) -> tuple[Any, float]:
    """Return the result and the median CPU seconds of several runs; everything uses one thread."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = task()
        seconds.append(time.process_time() - start)
    return result, statistics.median(seconds)


def time_paper(subject: PlanSubject) -> dict[str, Any]:
    """Search the paper's model for 100, 1,000 and 10,000 clients."""
    rows = {}
    for number in (100, 1000, 10_000):
        options = replace(FREE, latency_model="paper")
        problem = build_problem(subject, make_fleet(number), options)
        best, seconds = take_time(partial(sweep_thresholds, problem))
        outcome, genetic_s = take_time(partial(search_genetically, problem, 0))
        latency = problem.latency_s(np.stack([best, outcome]))
        rows[f"paper, {number} clients: exact (s)"] = float(latency[0])
        rows[f"paper, {number} clients: genetic, gap"] = float(latency[1] / latency[0] - 1)
        rows[f"paper, {number} clients: exact, search CPU seconds"] = seconds
        rows[f"paper, {number} clients: genetic, search CPU seconds"] = genetic_s
    return rows


def prove_corrected(subject: PlanSubject) -> dict[str, Any]:
    """Prove the corrected model's optimum and see how near the others come."""
    problem = build_problem(subject, make_fleet(), FREE)
    proof, proof_s = take_time(lambda: solve_program(problem), 3)
    outcome, genetic_s = take_time(lambda: search_genetically(problem, 0))
    whole, whole_s = take_time(lambda: search_plan(problem))
    (fixed, sweeps), turns_s = take_time(lambda: decide_by_turns(problem))
    alone = make_problem(
        problem.fleet, subject.costs, problem.model, group_by=lambda client: client.client_id
    )
    (single, single_sweeps), single_s = take_time(lambda: decide_by_turns(alone), 1)
    best = proof.lower_bound
    return {
        "corrected, 100 clients: optimum by milp (s)": best,
        "corrected, 100 clients: milp is proven": proof.is_optimal,
        "corrected, 100 clients: milp, CPU seconds": proof_s,
        "corrected, 100 clients: genetic, gap to optimum": gap(problem, outcome, best),
        "corrected, 100 clients: genetic, search CPU seconds": genetic_s,
        "corrected, 100 clients: genetic with bound, CPU seconds": whole_s,
        "corrected, 100 clients: linear relaxation, any plan (s)": whole.lower_bound_s,
        "corrected, decentralized by profile: gap to optimum": gap(problem, fixed, best),
        "corrected, decentralized by profile: sweeps": sweeps,
        "corrected, decentralized by profile: CPU seconds": turns_s,
        "corrected, decentralized by client: gap to optimum": gap(alone, single, best),
        "corrected, decentralized by client: sweeps": single_sweeps,
        "corrected, decentralized by client: CPU seconds": single_s,
    }


def gap(problem: PlanProblem, solution: np.ndarray, best_s: float) -> float:
    """Return by which share a solution is slower than the best."""
    return float(problem.latency_s(solution[None])[0] / best_s - 1)


def repeat_seeds(subject: PlanSubject) -> dict[str, Any]:
    """Run the genetic search with 20 seeds on the 7-profile instances."""
    rows = {}
    for model in ("paper", "corrected"):
        for number in (100, 1000):
            options = replace(FREE, latency_model=model)
            problem = build_problem(subject, make_fleet(number), options)
            best = solve_program(problem).lower_bound
            worst = max(
                gap(problem, search_genetically(problem, seed), best) for seed in range(SEEDS)
            )
            rows[f"{model}, {number} clients: worst of {SEEDS} seeds, gap"] = worst
    return rows


def list_named_plans(problem: PlanProblem, subject: PlanSubject) -> dict[str, CutPlan]:
    """Return the plans to compare, for the fleet of a problem with the paper's model."""
    clients = problem.fleet.clients

    def make_uniform(*counts: int) -> CutPlan:
        cuts = ClientCuts.from_list(counts, NETWORKS)
        entries = (ClientPlan(c.client_id, cuts, c.profile.name) for c in clients)
        return CutPlan(tuple((name, 5) for name in NETWORKS), tuple(entries))

    corrected = build_problem(subject, problem.fleet, FREE)
    best = solve_program(corrected).solution
    assert best is not None
    return {
        "the paper's optimum": problem.to_plan(sweep_thresholds(problem)),
        "all minimal (1, 1, 1, 1)": make_uniform(1, 1, 1, 1),
        "uniform (1, 1, 2, 2)": make_uniform(1, 1, 2, 2),
        "uniform (2, 2, 2, 2)": make_uniform(2, 2, 2, 2),
        "the corrected optimum": corrected.to_plan(best),
    }


def compare_plans(subject: PlanSubject) -> dict[str, Any]:
    """Put the same plans side by side in both models and in the event simulation."""
    paper = build_problem(subject, make_fleet(), replace(FREE, latency_model="paper"))
    corrected = build_problem(subject, make_fleet(), FREE)
    rows: dict[str, Any] = {}
    for name, plan in list_named_plans(paper, subject).items():
        for problem in (paper, corrected):
            solution = problem.from_plan(plan)
            is_known = problem.to_plan(solution) == plan
            latency = float(problem.latency_s(solution[None])[0])
            rows[f"{name}: {problem.model.name} (s)"] = latency if is_known else "not in its space"
        rows[f"{name}: event simulation (s)"] = simulate_step(subject.costs, paper.fleet, plan)
    return rows


def replan(subject: PlanSubject) -> dict[str, Any]:
    """Slow devices down and re-plan warm; compare with a cold search."""
    fleet = make_fleet()
    running = search_plan(build_problem(subject, fleet, PlanOptions())).plan
    gaps, seconds, moved = [], [], []
    for name in DEVICES["profiles"]:
        clients = tuple(
            ClientDevice(c.client_id, slow_down(c.profile, name), 64) for c in fleet.clients
        )
        present = Fleet(clients, fleet.server)
        planner = Replanner(PlanOptions(), num_steps=1000, hysteresis=0.0)
        decision, took = take_time(partial(planner.decide, running, subject, present), 3)
        best = solve_program(build_problem(subject, present, PlanOptions())).lower_bound
        gaps.append(decision.latency_after_s / best - 1)
        seconds.append(took)
        moved.append(decision.num_bytes)
    return {
        "re-planning after one profile slows to 10 %: worst gap to cold optimum": max(gaps),
        "re-planning: median CPU seconds, bound included": statistics.median(seconds),
        "re-planning: most CPU seconds, bound included": max(seconds),
        "re-planning: most bytes moved": max(moved),
    }


def slow_down(profile: DeviceProfile, name: str) -> DeviceProfile:
    """Return the profile at a tenth of its speed if it has this name."""
    factor = 0.1 if profile.name == name else 1.0
    return scale_profile(profile, {"speed_flops_per_s": factor})


def simulate(subject: PlanSubject) -> dict[str, Any]:
    """Rank 60 random plans by the corrected model and by the event simulation."""
    problem = build_problem(subject, make_fleet(), FREE)
    rng = np.random.default_rng(0)
    sizes = [len(choices.options) for choices in problem.networks]
    choices = np.stack([rng.integers(n, size=(60, 7)) for n in sizes], axis=2)
    model = problem.latency_s(choices)
    simulated = [
        simulate_step(subject.costs, problem.fleet, problem.to_plan(solution))
        for solution in choices
    ]
    return {
        "event simulation without barriers, 60 random plans: rank correlation": float(
            spearmanr(model, simulated).statistic
        ),
        "event simulation: median of model / simulation": float(np.median(model / simulated)),
    }


def plan_different_clients(subject: PlanSubject) -> dict[str, Any]:
    """Plan 100 clients that all differ, with networks of 10 blocks."""
    rng = np.random.default_rng(0)
    low, high = np.log([5e8, 5e7, 5e7]), np.log([1.2e11, 1e9, 1e9])
    clients = []
    for index in range(100):
        figures = np.exp(rng.uniform(low, high)).tolist()
        clients.append(ClientDevice(index, DeviceProfile(f"device{index}", *figures), 64))
    problem = build_problem(subject, Fleet(tuple(clients), make_fleet().server), FREE)
    found, seconds = [], []
    for seed in range(3):
        outcome, took = take_time(partial(search_genetically, problem, seed), 1)
        found.append(float(problem.latency_s(outcome[None])[0]))
        seconds.append(took)
    best, bound = find_best_known(problem), search_plan(problem, SearchSettings("uniform"))
    best = min([best, *found])
    return {
        "100 different clients, 10 blocks: best known (s)": best,
        "100 different clients, 10 blocks: genetic, worst of 3 seeds, gap to it": max(found) / best
        - 1,
        "100 different clients, 10 blocks: genetic, median search CPU seconds": statistics.median(
            seconds
        ),
        "100 different clients, 10 blocks: bound by relaxed groups (s)": bound.lower_bound_s,
        "100 different clients, 10 blocks: best uniform plan (s)": bound.latency_s,
    }


def find_best_known(problem: PlanProblem) -> float:
    """Return the latency of the best of many long searches, which nobody would wait for."""
    weights = (0.1, 0.03, 0.01, 0.003, 0.0)
    best = np.inf
    for seed in range(4):
        settings = GeneticSettings(population=400, generations=400, max_groups=20, polish_sweeps=0)
        start = search_genetically(problem, 100 + seed, settings)
        for schedule in (weights, weights[1:], weights[2:]):
            solution, _ = anneal_by_turns(problem, start, 4, schedule)
            best = min(best, float(problem.latency_s(solution[None])[0]))
    return best


if __name__ == "__main__":
    main()
