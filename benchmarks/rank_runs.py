"""Takes steps in one process and in several by turns: python benchmarks/rank_runs.py [--json].

Ratios are medians over neighbours in time: two processes with one thread each against one process
with two threads, and with one. On a machine that others use, processor time tells more than the
clock: the most that a process takes; of two threads half of what both take. Memory is a process's
peak above that after its imports, over steps, a round and a save; of several the largest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from scale import peak_mib
from yardsticks import Workload, make_module, median_ratio

from huscf.checkpoint_io import write_tensors
from huscf.engines import ClientBatch, LazyBatches, Mixture, Ranks
from huscf.training import SplitModule

#: Processes and threads of each.
WAYS = {"one": (1, 1), "threads": (1, 2), "ranks": (2, 1)}


def main() -> None:
    """Take turns and print a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--width", type=int, default=32, help="64: the paper's")
    parser.add_argument("--image_size", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", help="be one process of this way, that of --rank")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--store", help="where the processes of a way meet")
    arguments = parser.parse_args()
    if arguments.way:
        serve(arguments)
        return
    row = compare(arguments)
    print(json.dumps({"measured": row}) if arguments.json else "\n".join(describe(row)))


def compare(arguments: argparse.Namespace) -> dict[str, float]:
    """Return seconds by the clock and of processors, peaks, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {name: Way(name, arguments, Path(folder)) for name in WAYS}
        for way in ways.values():
            way.ask("step")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                clock, cpu = zip(*way.ask("step"), strict=True)
                times[name].append((max(clock), max(cpu) / WAYS[name][1]))
        for command in ("round", "step", "save"):
            for way in ways.values():
                way.ask(command)
        peaks = {name: max(peak for peak, _ in way.ask("peak")) for name, way in ways.items()}
        for way in ways.values():
            way.ask("end")
    row = {f"peak_mib_{name}": peak for name, peak in peaks.items()}
    row["memory_over_one"] = peaks["ranks"] / peaks["one"]
    for which, kind in enumerate(("clock", "cpu")):
        each = {name: [both[which] for both in own] for name, own in times.items()}
        row |= {f"{kind}_s_{name}": statistics.median(own) for name, own in each.items()}
        for other in ("threads", "one"):
            row[f"{kind}_over_{other}"] = median_ratio(each["ranks"], each[other])
    return row


def describe(row: dict[str, float]) -> list[str]:
    """Return the lines of a table."""
    return ["| figure | |", "|---|---|", *(f"| {k} | {v:.3g} |" for k, v in row.items())]


class Way:
    """The processes of one way, which do what they are asked for.

    Args:
        name: Of WAYS.
        arguments: Workload.
        folder: For what they write.
    """

    def __init__(self, name: str, arguments: argparse.Namespace, folder: Path) -> None:
        size, threads = WAYS[name]
        options = [f"--{k}={getattr(arguments, k)}" for k in ("clients", "batch_size", "width")]
        options += [f"--image_size={arguments.image_size}", f"--way={name}"]
        command = [sys.executable, __file__, *options, f"--store={folder / name}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.processes = [
            subprocess.Popen(
                [*command, f"--rank={rank}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(size)
        ]

    def ask(self, command: str) -> list[tuple[float, float]]:
        """Let all processes do something; return what each answers."""
        for process in self.processes:
            print(command, file=process.stdin, flush=True)
        answers = [process.stdout.readline().split() for process in self.processes]
        return [(float(first), float(second)) for first, second in answers]


def serve(arguments: argparse.Namespace) -> None:
    """Do what is asked for, and print seconds by the clock and of processors, or MiB."""
    before = peak_mib()
    size, threads = WAYS[arguments.way]
    torch.set_num_threads(threads)
    workload = Workload(
        arguments.clients, arguments.batch_size, arguments.width, arguments.image_size
    )
    module = make_module(workload)
    if size > 1:
        store = f"file://{arguments.store}"
        dist.init_process_group("gloo", init_method=store, rank=arguments.rank, world_size=size)
        module.spread_over(Ranks.join())
    work = Work(module, workload, Path(f"{arguments.store}-{arguments.rank}.ckpt"))
    for line in sys.stdin:
        command = line.strip()
        start = time.perf_counter(), time.process_time()
        if command not in ("peak", "end"):
            work.do(command)
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        print(*((peak_mib() - before, 0.0) if command == "peak" else taken), flush=True)
        if command == "end":
            break
    if size > 1:
        dist.destroy_process_group()


class Work:
    """What a process does: steps, rounds, saves."""

    def __init__(self, module: SplitModule, workload: Workload, path: Path) -> None:
        self.module, self.workload, self.path = module, workload, path
        self.step = 0

    def do(self, command: str) -> None:
        """Do one of them."""
        work: dict[str, Callable[[], Any]] = {
            "step": self._step,
            "round": self._round,
            "save": self._save,
        }
        work[command]()

    def _step(self) -> None:
        workload = self.workload
        sizes = dict.fromkeys(range(workload.num_clients), workload.batch_size)
        self.module.engine.run_step(LazyBatches(sizes, self._take), self.step)
        self.step += 1

    def _take(self, client_id: int) -> ClientBatch:
        stream = torch.Generator().manual_seed(client_id)
        size = self.workload.batch_size
        side = self.workload.image_size
        samples = torch.randint(0, 256, (size, 1, side, side), generator=stream)
        labels = torch.randint(0, 10, (size,), generator=stream)
        return ClientBatch(samples.to(torch.uint8), labels)

    def _round(self) -> None:
        clients = range(self.workload.num_clients)
        self.module.engine.observe()
        weights = dict.fromkeys(clients, 1 / len(clients))
        self.module.engine.mix(Mixture(dict.fromkeys(clients, 0), weights))

    def _save(self) -> None:
        state: dict[str, Any] = {"state_dict": self.module.collect_state_dict()}
        self.module.on_save_checkpoint(state)
        write_tensors(state, self.path)


if __name__ == "__main__":
    main()
