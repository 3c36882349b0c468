"""Prints speed and memory against the number of clients: python benchmarks/scale.py [--json].

Each size runs in a process of its own, whose peak of resident memory is reported.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from yardsticks import Workload, make_module, our_step

MIB = 2**20


def main() -> None:
    """Run every size in turn and print a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--width", type=int, default=8, help="64: the paper's")
    parser.add_argument("--image_size", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=5, help="steps; the median is printed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="measure one size in this process")
    arguments = parser.parse_args()
    if arguments.alone:
        torch.set_num_threads(arguments.threads)
        (clients,) = arguments.clients
        workload = Workload(clients, arguments.batch_size, arguments.width, arguments.image_size)
        print(json.dumps(measure(workload, arguments.repeats)))
        return
    rows = {}
    for clients in arguments.clients:
        options = [f"--{name}={getattr(arguments, name)}" for name in FORWARDED]
        command = [sys.executable, __file__, "--alone", f"--clients={clients}", *options]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = rows[str(clients)] = json.loads(output)
        if not arguments.json:
            print(f"{clients:6d}", *(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    if arguments.json:
        print(json.dumps(rows))


FORWARDED = ("batch_size", "width", "image_size", "repeats", "threads")


def measure(workload: Workload, repeats: int) -> dict[str, float]:
    """Run steps; return speed, peak memory, and what parameters and optimiser state need."""
    before = peak_mib()
    module = make_module(workload)
    step = our_step(workload, module)
    step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    trained = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    averaged = sum(p.nbytes for p in module.parameters() if not p.requires_grad)
    median = statistics.median(seconds)
    return {
        "steps_per_s": 1 / median,
        "ms_per_client": 1000 * median / workload.num_clients,
        "peak_mib": peak_mib(),
        "peak_above_start_mib": peak_mib() - before,
        # Parameter, gradient and two moments; and the moving average.
        "state_mib": (4 * trained + averaged) / MIB,
    }


def peak_mib() -> float:
    """Return the process's peak of resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
