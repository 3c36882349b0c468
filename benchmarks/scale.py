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
from yardsticks import Workload, make_module

from huscf.training import SplitModule

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
    parser.add_argument("--present", type=int, default=0, help="so many at a time, by turns; 0 all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="measure one size in this process")
    arguments = parser.parse_args()
    if arguments.alone:
        torch.set_num_threads(arguments.threads)
        (clients,) = arguments.clients
        workload = Workload(clients, arguments.batch_size, arguments.width, arguments.image_size)
        print(json.dumps(measure(workload, arguments.repeats, arguments.present or clients)))
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


FORWARDED = ("batch_size", "width", "image_size", "repeats", "present", "threads")


def measure(workload: Workload, repeats: int, num_present: int) -> dict[str, float]:
    """Run steps; return speed, peak memory, and what parameters and optimiser state need.

    Args:
        workload: All clients.
        repeats: Steps that each part of the clients takes.
        num_present: Clients of a part; all parts take their turn.
    """
    before = peak_mib()
    module = make_module(workload)
    batch, step, seconds = workload.make_batch(), 0, []
    for first in range(0, workload.num_clients, num_present):
        part = dict(list(batch.items())[first : first + num_present])
        for number in range(1 + repeats):
            start = time.perf_counter()
            module.engine.run_step(part, step)
            step += 1
            if number:  # the first gives its clients memory of their own
                seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "steps_per_s": 1 / median,
        "ms_per_client": 1000 * median / num_present,
        "peak_mib": peak_mib(),
        "peak_above_start_mib": peak_mib() - before,
        "state_mib": count_state_bytes(module) / MIB,
    }


def count_state_bytes(module: SplitModule) -> int:
    """Return what all parties' parameters, averages, gradients and moments take, each once."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [t.grad for t in module.parameters() if t.grad is not None]
    for party in module.engine.all_parties().values():
        for optimizer in party.optimizers.values():
            for values in optimizer.state.values():
                tensors += [v for v in values.values() if isinstance(v, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def peak_mib() -> float:
    """Return the process's peak of resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
