"""Prints what evaluating samples of one domain costs: python benchmarks/evaluation.py [--json].

The samples are real training samples with noise: seconds depend on numbers and sizes alone.
HUSCF_DATA names the folder with MNIST. "total_s" is everything but the judge's training,
"next_s" the same for one more set of samples of the domain.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from huscf.datamodules import DigitsDataModule, FederatedDataModule, ImageDataModule
from huscf.metrics import (
    EvaluationSettings,
    LabelledSamples,
    RealData,
    RealReference,
    evaluate_samples,
    load_judge,
    measure_downstream_utility,
    measure_generation_score,
    measure_kernel_distance,
    measure_label_accuracy,
    measure_neighbour_scores,
)
from huscf.metrics.frechet_distance import compare_features
from huscf.models import to_float

NOISE = 0.1
Found = TypeVar("Found")


def main() -> None:
    """Time every metric and print a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--domain", default="mnist", help="digits, or a set of ImageDataModule")
    parser.add_argument("--num_samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    real = load_real(arguments.domain)
    row = measure(real, arguments.num_samples)
    if arguments.json:
        print(json.dumps({arguments.domain: row}))
        return
    shape = "x".join(map(str, real.test.shape))
    print(f"{arguments.domain} ({shape}), at most {arguments.num_samples} samples")
    print(f"{'seconds':20s} {'wall':>8s} {'CPU':>8s}")
    for name in [name.removesuffix("_cpu_s") for name in row if name.endswith("_cpu_s")]:
        print(f"{name:20s} {row[f'{name}_s']:8.2f} {row[f'{name}_cpu_s']:8.2f}")


def measure(real: RealData, num_samples: int) -> dict[str, float]:
    """Return seconds by part, see Clock; samples are as many as there are, at most num_samples."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as cache:
        judge = clock("judge_training", lambda: load_judge(real, cache_dir=Path(cache)))
        clock("judge_loading", lambda: load_judge(real, cache_dir=Path(cache)))
    synthetic = disturb(real.train.at_most(num_samples, seed=1))
    reference, settings = RealReference(real, judge), EvaluationSettings()
    count = settings.max_samples
    test = clock("real_features", lambda: reference.test_features(count))
    seen = clock("features", lambda: judge.inspect(synthetic))
    clock("generation_score", lambda: measure_generation_score(seen.probabilities))
    clock("label_accuracy", lambda: measure_label_accuracy(seen.probabilities, synthetic.labels))
    clock("frechet_distance", lambda: compare_features(test, seen.features))
    clock("kernel_distance", lambda: measure_kernel_distance(test, seen.features))
    clock("neighbour_scores", lambda: measure_neighbour_scores(test, seen.features, settings.k))
    ratio = clock("real_nearest", lambda: reference.nearest_real_ratio(settings.max_nearest))
    some = synthetic.at_most(settings.max_nearest, seed=0).samples
    clock("nearest_real_ratio", lambda: ratio.update(some))
    balanced = synthetic.balanced(settings.max_downstream, seed=0)
    training = settings.downstream
    assert training is not None
    clock("downstream", lambda: measure_downstream_utility(balanced, real.test, training))
    fresh = RealReference(real, judge)
    clock("total", lambda: evaluate_samples(synthetic, fresh, settings, seed=0))
    clock("next", lambda: evaluate_samples(synthetic, fresh, settings, seed=1))
    return clock.seconds


class Clock:
    """Runs things and keeps the wall-clock and CPU seconds that each took, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, run: Callable[[], Found]) -> Found:
        """Run once, and keep the seconds as "<name>_s" and "<name>_cpu_s"."""
        start, cpu_start = time.perf_counter(), time.process_time()
        result = run()
        self.seconds[f"{name}_s"] = time.perf_counter() - start
        self.seconds[f"{name}_cpu_s"] = time.process_time() - cpu_start
        return result


def load_real(name: str) -> RealData:
    """Return the real data of one domain."""
    data: FederatedDataModule
    if name == "digits":
        data = DigitsDataModule()
    else:
        datasets: list[Any] = [name]
        data = ImageDataModule(datasets)
    domain = data.domains[name]
    halves = (
        (domain.train_samples, domain.train_labels),
        (domain.test_samples, domain.test_labels),
    )
    return RealData(*(LabelledSamples(*half, domain.num_classes) for half in halves))


def disturb(data: LabelledSamples) -> LabelledSamples:
    """Return float samples with noise on them."""
    samples = to_float(data.samples)
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
    return LabelledSamples((samples + NOISE * noise).clamp(-1, 1), data.labels, data.num_classes)


if __name__ == "__main__":
    main()
