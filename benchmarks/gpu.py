"""Checks and times everything on a graphics card: python benchmarks/gpu.py --output gpu.json.

It takes at most eight minutes, says what it measures as it goes, and writes one JSON file. Whoever
has a card can run it and send that file. Without a card it ends with exit code 2;
`--device cpu --quick` tries the script itself.

Equality: the same steps, round, samples and scores on the CPU, in float32 without TF32. Steps: our
time over that of uncut networks (ratio_to_limit), in fp32 and bf16, with peak memory and kernel
launches. Variants: more clients side by side, and CUDA graphs.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yardsticks import (
    LATENT_DIM,
    Step,
    Workload,
    limit_step,
    make_module,
    median_ratio,
    our_step,
    time_alternately,
    wait_for_device,
)

from huscf.engines import Mixture
from huscf.engines.stacked import microbatch
from huscf.engines.stacked import step as stacked_step
from huscf.methods import HuscfGan
from huscf.metrics import ClassifierTraining, JudgeSettings, LabelledSamples, RealData
from huscf.metrics.evaluation import EvaluationSettings, evaluate_samples
from huscf.metrics.judge_cache import train_judge
from huscf.metrics.real_reference import RealReference
from huscf.models import ConditionalDiscriminator, ConditionalGenerator
from huscf.randomness import make_generator
from huscf.training import SplitModule

#: Largest difference to the CPU, relative to the size of what is compared.
TOLERANCE = 1e-3

#: The whole script ends before this.
LIMIT_S = 480.0

#: Samples that run side by side in the variants; the default is that of the CPU.
WIDTHS = (512, 2048, 8192)

#: What a launch is called in a profile.
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "hipLaunchKernel")

#: The quickstart, made so small that it shows the script alone.
QUICK = (
    *("--trainer.max_epochs=1", "--evaluation.every_n_rounds=-1", "--training.num_threads=1"),
    *("--data.clients_per_domain=1", "--report.enabled=false", "--samples.every_n_rounds=0"),
    *("--model.method.generator.width=4", "--model.method.discriminator.width=4"),
)

REPOSITORY = Path(__file__).resolve().parents[1]


class PlainGan(HuscfGan):
    """Steps by plain gradients: Adam would turn the sign of a gradient near 0 into a whole step."""

    def make_optimizer(self, network: str, parameters: list) -> torch.optim.Optimizer:
        """Return SGD."""
        return torch.optim.SGD(parameters, 0.1)


def main() -> None:
    """Run all parts, print them, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script itself")
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not is_there(arguments.device):
        message = f"gpu.py: no device {arguments.device}; --device cpu --quick tries the script"
        print(message, file=sys.stderr)
        sys.exit(2)
    started = time.monotonic()
    left = lambda: LIMIT_S - (time.monotonic() - started)  # noqa: E731
    figures = {"machine": describe_machine(arguments.device)}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "equality": lambda: check_equality(arguments.device),
        "steps": lambda: time_steps(arguments.device, arguments.quick, left),
        "variants": lambda: time_variants(arguments.device, arguments.quick, left),
        "quickstart": lambda: run_quickstart(arguments.device, arguments.quick, left),
    }
    for name, run in parts.items():
        print(f"{name}:", flush=True)
        figures[name] = run()
        for key, value in figures[name].items():
            print(f"  {key}: {write_short(value)}", flush=True)
    figures["seconds"] = time.monotonic() - started
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"written: {arguments.output}")
    sys.exit(0 if figures["equality"]["is_equal"] else 1)


def is_there(device: str) -> bool:
    """Return whether tensors can be put on a device."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        return False
    return True


def describe_machine(device: str) -> dict[str, Any]:
    """Return what figures depend on; no name of a host, user or folder."""
    on_card = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_card else device,
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30
        if on_card
        else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


# Equality


def check_equality(device: str) -> dict[str, Any]:
    """Return the largest relative differences between the device and the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        ours, theirs = follow("cpu"), follow(device)
    finally:
        torch.backends.cudnn.allow_tf32 = True
    found = {name: compare(ours[name], theirs[name]) for name in ours}
    return {**found, "is_equal": all(value <= TOLERANCE for value in found.values())}


def follow(device: str) -> dict[str, Tensor]:
    """Return what three steps, a round, drawing and scoring come to, as tensors on the CPU."""
    workload = Workload(4, 16, 8, 16, device)
    method = PlainGan(
        partial(ConditionalGenerator, width=8),
        partial(ConditionalDiscriminator, width=8),
        LATENT_DIM,
    )
    sizes = dict.fromkeys(range(4), 16)
    module = SplitModule(workload.shape, sizes, sizes, method).to(device)
    module.configure_optimizers()
    before, batch = flatten(module), workload.make_batch()
    losses = [loss for n in range(3) for loss in module.engine.run_step(batch, n).losses.values()]
    changes = flatten(module) - before
    clusters = {client: client % 2 for client in range(4)}
    module.engine.mix(Mixture(clusters, dict.fromkeys(range(4), 0.5), True, "keep"))
    labels = torch.arange(10).repeat(20)
    drawn = module.sample(0, labels, make_generator(0, "equality"))
    return {
        "losses": torch.tensor(losses),
        "changes_of_three_steps": changes,
        "changes_after_a_round": flatten(module) - before,
        "samples": drawn,
        "scores": score(device),
    }


def flatten(module: SplitModule) -> Tensor:
    """Return the parameters of all clients' whole networks in one vector."""
    engine = module.engine
    networks = [engine.whole_network(n, c) for n in engine.networks for c in engine.clusters]
    return torch.cat([p.detach().flatten().cpu() for net in networks for p in net.parameters()])


def score(device: str) -> Tensor:
    """Return scores by a judge that was trained on the CPU and judges on the device."""
    stream = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(50)
    samples = torch.randint(0, 128, (200, 1, 16, 16), generator=stream, dtype=torch.uint8)
    samples += (labels * 30).to(torch.uint8)[:, None, None, None]
    every = LabelledSamples(samples, labels, 4)
    real = RealData(every.select(torch.arange(100)), every.select(torch.arange(100, 200)))
    training = ClassifierTraining(epochs=2)
    judge = train_judge(real, JudgeSettings(width=4, num_features=16, training=training)).to(device)
    settings = EvaluationSettings(downstream=None)
    figures = evaluate_samples(every, RealReference(real, judge), settings)
    return torch.tensor(list(figures.values()))


def compare(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return ((one - other).abs().max() / one.abs().max().clamp(min=1e-12)).item()


# Steps


def time_steps(device: str, is_quick: bool, left: Callable[[], float]) -> dict[str, Any]:
    """Return figures of every workload and precision, as far as the time allows."""
    sizes = [(2, 3, 4, 8)] if is_quick else [(8, 64, 64, 28), (100, 4, 64, 28)]
    rows: dict[str, Any] = {}
    for clients, batch, width, image_size in sizes:
        workload = Workload(clients, batch, width, image_size, device)
        for precision in ("fp32", "bf16"):
            if left() < 200:
                rows[f"{workload.name} {precision}"] = {"left_out": "no time left"}
                continue
            rows[f"{workload.name} {precision}"] = time_step(workload, precision, is_quick)
    return rows


def time_step(workload: Workload, precision: str, is_quick: bool) -> dict[str, float]:
    """Return the median seconds of our step and of the limit, memory, and launches."""
    mixed = partial(in_precision, precision=precision, device=workload.device)
    ours = mixed(our_step(workload))
    limits = {
        "limit": mixed(limit_step(workload)),
        "limit_channels_last": mixed(limit_step(workload, channels_last=True)),
    }
    seconds = time_alternately({"ours": ours, **limits}, 1 if is_quick else 7)
    limit = min((seconds[name] for name in limits), key=statistics.median)
    return {
        "ours_s": statistics.median(seconds["ours"]),
        "limit_s": statistics.median(limit),
        "ratio_to_limit": median_ratio(seconds["ours"], limit),
        **measure_memory(ours, workload.device),
        "launches": count_launches(ours, workload.device),
        "launches_of_limit": count_launches(limits["limit"], workload.device),
    }


def in_precision(step: Step, precision: str, device: str) -> Step:
    """Return the step as trainer.precision 32-true or bf16-mixed runs it."""
    if precision == "fp32":
        return step

    def mixed() -> None:
        with torch.autocast(device.partition(":")[0], torch.bfloat16, cache_enabled=False):
            step()

    return mixed


def measure_memory(step: Step, device: str) -> dict[str, float]:
    """Return the peak of a step's memory on a card; {} elsewhere."""
    if not device.startswith("cuda"):
        return {}
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return {"peak_mib": torch.cuda.max_memory_allocated(device) / 2**20}


def count_launches(step: Step, device: str) -> int:
    """Return the kernels that a step launches; on a CPU, the operators that it calls."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.startswith("cuda"):
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        step()
        wait_for_device()
    names = [event.name for event in profile.events()]
    if device.startswith("cuda"):
        return sum(name in LAUNCHES for name in names)
    return sum(name.startswith("aten::") for name in names)


# Variants


def time_variants(device: str, is_quick: bool, left: Callable[[], float]) -> dict[str, Any]:
    """Return our step's seconds with more clients side by side, and as a CUDA graph."""
    sizes = [(2, 3, 4, 8)] if is_quick else [(8, 64, 64, 28), (100, 4, 64, 28)]
    rows: dict[str, Any] = {}
    for clients, batch, width, image_size in sizes:
        workload = Workload(clients, batch, width, image_size, device)
        name = workload.name
        for samples in (None, *WIDTHS[: 1 if is_quick else None]):
            if left() < 120:
                break
            label = f"{name}, {'default' if samples is None else samples} side by side"
            rows[label] = time_width(workload, samples, is_quick)
        if device.startswith("cuda") and left() > 120:
            rows[f"{name}, our step as a CUDA graph"] = try_graph(our_step(workload))
    return rows


def time_width(workload: Workload, samples: int | None, is_quick: bool) -> dict[str, float]:
    """Return seconds and memory where so many samples run side by side."""
    with side_by_side(samples):
        step = our_step(workload, make_module(workload))
        seconds = time_alternately({"ours": step}, 1 if is_quick else 5)["ours"]
        memory = measure_memory(step, workload.device)
        launches = count_launches(step, workload.device)
    return {"ours_s": statistics.median(seconds), **memory, "launches": launches}


@contextmanager
def side_by_side(samples: int | None) -> Iterator[None]:
    """Let so many samples pass the networks together, clients of large batches too."""
    before = microbatch.STACKED_SAMPLES, microbatch.LARGE_BATCH, stacked_step.CHUNK_SAMPLES
    if samples is not None:
        microbatch.STACKED_SAMPLES, microbatch.LARGE_BATCH = samples, samples + 1
        stacked_step.CHUNK_SAMPLES = max(samples, before[2])
    try:
        yield
    finally:
        microbatch.STACKED_SAMPLES, microbatch.LARGE_BATCH, stacked_step.CHUNK_SAMPLES = before


def try_graph(step: Step) -> dict[str, Any]:
    """Return the seconds of a replay, or why a step cannot be recorded."""
    side = torch.cuda.Stream()
    try:
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        wait_for_device()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            step()
        return {"replay_s": statistics.median(time_alternately({"g": graph.replay}, 7)["g"])}
    except RuntimeError as error:
        wait_for_device()
        return {"refused": str(error).splitlines()[0][:200]}


# The quickstart


def run_quickstart(device: str, is_quick: bool, left: Callable[[], float]) -> dict[str, Any]:
    """Run the README's first command on the device; return seconds and the last scores."""
    accelerator = "cpu" if device == "cpu" else "gpu"
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "huscf", "fit", "--config", "configs/quickstart.yaml"]
        command += [f"--trainer.default_root_dir={root}", f"--trainer.accelerator={accelerator}"]
        command += ["--trainer.enable_progress_bar=false"]
        command += QUICK if is_quick else []
        started = time.monotonic()
        limit = max(30.0, left() - 10)
        try:
            done = subprocess.run(
                command, cwd=REPOSITORY, capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {"left_out": f"not done within {limit:.0f} s"}
        if done.returncode:
            return {"failed": done.stderr.strip().splitlines()[-1][:300]}
        seconds = time.monotonic() - started
        lines = (Path(root) / "quickstart-1" / "metrics.csv").read_text().splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    scores = {name: float(value) for name, value in last.items() if value and "eval" in name}
    return {"seconds": seconds, "rounds": len(lines) - 1, **scores}


def write_short(value: Any) -> str:
    """Return a figure, or several, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {write_short(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
