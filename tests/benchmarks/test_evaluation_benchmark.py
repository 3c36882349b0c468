"""The evaluation benchmark runs and prints a time for every part; no time is tested."""

import json
import subprocess
import sys

from tests.conftest import REPOSITORY

PARTS = (
    *("judge_training", "judge_loading", "real_features", "features", "generation_score"),
    *("label_accuracy", "frechet_distance", "kernel_distance", "neighbour_scores"),
    *("real_nearest", "nearest_real_ratio", "downstream", "total", "next"),
)


def test_seconds_of_every_metric_are_printed_as_one_object():
    script = str(REPOSITORY / "benchmarks" / "evaluation.py")
    options = ["--json", "--domain=digits", "--num_samples=200", "--threads=1"]
    command = [sys.executable, script, *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = json.loads(output)["digits"]
    assert list(row) == [f"{part}_{kind}" for part in PARTS for kind in ("s", "cpu_s")]
    assert all(row[f"{part}_s"] > 0 for part in PARTS)
