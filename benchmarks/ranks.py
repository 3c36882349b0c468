"""Simulates a step on many processes, from what one process measures here and a stated network.

    python benchmarks/ranks.py [--clients 1000 100000] [--ranks 1 2 4 8 16 32 64] [--json]

Two sizes are timed (processor time of one thread), which gives the seconds of a microbatch and
those that every process spends whatever its share. Which microbatches and tree nodes a process has
is not modelled: RankedEngine's own division and tree say it. Each of its exchanges is an all-gather
over a ring, whose parcels are padded to the longest. The processes share no processor.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import asdict, dataclass

import torch
from yardsticks import Workload, make_module

from huscf.engines.ranked.engine import divide
from huscf.engines.stacked.microbatch import STACKED_SAMPLES
from huscf.federation import TreeSum

#: Exchanges of a step, of two collectives each: one a phase, and the server's statistics.
NUM_EXCHANGES = 3


@dataclass(frozen=True)
class Costs:
    """What a step costs one process.

    Args:
        microbatch_s: Seconds of one microbatch, all phases.
        fixed_s: Seconds that do not depend on their number.
        node_bytes: What a node of the tree carries: the server's gradients, phases together.
        add_s: Seconds to add two nodes.
    """

    microbatch_s: float
    fixed_s: float
    node_bytes: int
    add_s: float


def main() -> None:
    """Measure, simulate, and print a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", nargs="+", type=int, default=[1000, 100_000])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--width", type=int, default=16, help="64: the paper's")
    parser.add_argument("--gbit_per_s", type=float, default=10.0)
    parser.add_argument("--latency_us", type=float, default=50.0, help="of one message")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    costs = measure(arguments.batch_size, arguments.width, arguments.repeats)
    rows = {
        f"{clients} on {ranks}": simulate(
            costs,
            math.ceil(clients / max(1, STACKED_SAMPLES // arguments.batch_size)),
            ranks,
            arguments.gbit_per_s * 1e9 / 8,
            arguments.latency_us * 1e-6,
        )
        for clients in arguments.clients
        for ranks in arguments.ranks
    }
    if arguments.json:
        print(json.dumps({name: {**asdict(costs), **row} for name, row in rows.items()}))
        return
    print(*(f"{name} {value:.4g}" for name, value in asdict(costs).items()))
    print("| clients, processes | s a step | efficiency | exchange, share | MB received |")
    print("|---|---|---|---|---|")
    for name, row in rows.items():
        cells = (f"{row[k]:.3g}" for k in ("step_s", "efficiency", "exchange_share", "mbytes"))
        print(f"| {name} |", " | ".join(cells), "|")


def measure(batch_size: int, width: int, repeats: int) -> Costs:
    """Time steps of one and of four microbatches, and the addition of two nodes."""
    in_one = max(1, STACKED_SAMPLES // batch_size)
    seconds = []
    for count in (1, 4):
        workload = Workload(in_one * count, batch_size, width)
        module, batch = make_module(workload), workload.make_batch()
        times = []
        for step in range(1 + repeats):
            start = time.process_time()
            module.engine.run_step(batch, step)
            times.append(time.process_time() - start)
        seconds.append(statistics.median(times[1:]))
    parameters = [torch.zeros_like(p) for p in module.server.trained.parameters()]
    start = time.process_time()
    for _ in range(repeats):
        torch._foreach_add_(parameters, parameters)
    add_s = (time.process_time() - start) / repeats
    microbatch_s = (seconds[1] - seconds[0]) / 3
    node_bytes = sum(p.nbytes for p in parameters)
    return Costs(microbatch_s, max(0.0, seconds[0] - microbatch_s), node_bytes, add_s)


def simulate(
    costs: Costs, num_microbatches: int, ranks: int, bytes_per_s: float, latency_s: float
) -> dict[str, float]:
    """Return what a step takes on so many processes.

    Args:
        costs: Of one process.
        num_microbatches: Of the step.
        ranks: Processes; those beyond one for each microbatch have nothing to do.
        bytes_per_s: Of each process's link, each way.
        latency_s: Of one message.
    """
    alone_s = costs.fixed_s + num_microbatches * costs.microbatch_s
    owners = divide([1.0] * num_microbatches, ranks)
    trees = [TreeSum[int](num_microbatches, lambda a, b: a + b) for _ in range(ranks)]
    for place, owner in enumerate(owners):
        trees[owner].add(place, 1)
    nodes = [len(tree.nodes) for tree in trees]
    busiest = max(owners.count(rank) for rank in set(owners))
    received = (ranks - 1) * max(nodes) * costs.node_bytes
    # A ring of R - 1 hops for every collective; sizes go before contents.
    exchange_s = received / bytes_per_s + 2 * NUM_EXCHANGES * (ranks - 1) * latency_s
    finish_s = (sum(nodes) - 1) * costs.add_s if ranks > 1 else 0.0
    step_s = costs.fixed_s + busiest * costs.microbatch_s + exchange_s + finish_s
    return {
        "step_s": step_s,
        "efficiency": alone_s / (ranks * step_s),
        "exchange_share": (exchange_s + finish_s) / step_s,
        "mbytes": received / 1e6,
        "nodes": max(nodes),
    }


if __name__ == "__main__":
    main()
