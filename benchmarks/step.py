"""Prints what one training step costs: python benchmarks/step.py [--json].

ratio_to_limit is our time over that of uncut networks, speedup_* the naive split's (in fp32)
over ours. With --method MdGan FlowMatching ... it is that of these methods, over the same phases on
uncut networks in a plain loop; with --memory too it is their peak of resident memory, over what a
step cannot do without.
"""

import argparse
import json
import statistics
from functools import partial
from typing import Any

import torch
from step_memory import measure_memory_apart
from uncut import make_method_module, uncut_step
from yardsticks import (
    NaiveSplit,
    Step,
    Workload,
    limit_step,
    median_ratio,
    our_step,
    time_alternately,
)


def main() -> None:
    """Time all workloads and print a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workloads", nargs="+", default=["8x64", "100x4"], help="CLIENTSxBATCH")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 16], help="64: the paper's")
    parser.add_argument("--image_size", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; medians are printed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no_bf16", action="store_true", help="leave bf16 out")
    parser.add_argument("--method", nargs="+", default=[], help="classes of huscf.methods")
    parser.add_argument("--memory", action="store_true", help="of --method, instead of time")
    arguments = parser.parse_args()
    if arguments.memory and not arguments.method:
        parser.error("--memory: name the methods with --method")
    take = partial(measure_method, repeats=arguments.repeats)
    if arguments.memory:
        take = partial(measure_memory_apart, threads=arguments.threads)
    torch.set_num_threads(arguments.threads)
    rows: dict[str, dict[str, Any]] = {}
    for width in arguments.widths:
        for entry in arguments.workloads:
            clients, batch = map(int, entry.split("x"))
            workload = Workload(clients, batch, width, arguments.image_size)
            found = {
                f"{method} {workload.name}": partial(take, method, workload)
                for method in arguments.method
            } or {
                workload.name: partial(
                    measure, workload, arguments.repeats, with_bf16=not arguments.no_bf16
                )
            }
            for name, run in found.items():
                rows[name] = run()
                if not arguments.json:
                    print_row(name, rows[name])
    if arguments.json:
        print(json.dumps(rows))


def measure(workload: Workload, repeats: int, with_bf16: bool) -> dict[str, float]:
    """Time ours, the limit and the naive split in turns."""
    ours = our_step(workload)
    steps: dict[str, Step] = {
        "ours": ours,
        "limit": limit_step(workload),
        "limit_channels_last": limit_step(workload, channels_last=True),
        "naive": NaiveSplit(workload).step,
    }
    if with_bf16:
        steps["bf16"] = in_bf16(ours)
    seconds = time_alternately(steps, repeats)
    limits = (seconds.pop("limit_channels_last"), seconds["limit"])
    seconds["limit"] = min(limits, key=statistics.median)
    row = {
        "ratio_to_limit": median_ratio(seconds["ours"], seconds["limit"]),
        "speedup_fp32": median_ratio(seconds["naive"], seconds["ours"]),
        **{f"{name}_s": statistics.median(values) for name, values in seconds.items()},
    }
    if with_bf16:
        row["speedup_bf16"] = median_ratio(seconds["naive"], seconds["bf16"])
    return row


def measure_method(method: str, workload: Workload, repeats: int) -> dict[str, float]:
    """Time a method's step as we run it and on uncut networks, in turns."""
    steps: dict[str, Step] = {
        "ours": our_step(workload, make_method_module(method, workload)),
        "limit": uncut_step(method, workload),
        "limit_channels_last": uncut_step(method, workload, channels_last=True),
    }
    seconds = time_alternately(steps, repeats)
    limits = (seconds.pop("limit_channels_last"), seconds["limit"])
    seconds["limit"] = min(limits, key=statistics.median)
    return {
        "ratio_to_limit": median_ratio(seconds["ours"], seconds["limit"]),
        **{f"{name}_s": statistics.median(values) for name, values in seconds.items()},
    }


def in_bf16(step: Step) -> Step:
    """Return the step under bf16 mixed precision, as trainer.precision bf16-mixed runs it."""

    def mixed() -> None:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            step()

    return mixed


def print_row(name: str, row: dict[str, float]) -> None:
    """Print one workload's figures on one line."""
    print(f"{name:32s}", *(f"{key} {value:.3f}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
