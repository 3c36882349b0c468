"""The benchmark scripts run and print the keys that they promise; no time is tested."""

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

TINY = ["--json", "--image_size=8", "--repeats=1"]


@pytest.mark.parametrize(
    ("script", "options", "keys"),
    [
        (
            "step.py",
            ["--workloads=2x3", "--widths=4"],
            {"ratio_to_limit", "speedup_fp32", "speedup_bf16"},
        ),
        (
            "round.py",
            ["--clients=3", "--batch_size=3", "--width=4"],
            {"round_share", "speedup_averaging"},
        ),
        (
            "scale.py",
            ["--clients=2", "--batch_size=3", "--width=4"],
            {"steps_per_s", "peak_mib", "ms_per_client"},
        ),
    ],
)
def test_each_script_prints_one_object(script, options, keys):
    command = [sys.executable, str(REPOSITORY / "benchmarks" / script), *TINY, *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(output).values()
    assert all(keys <= row.keys() for row in rows)
    assert all(value > 0 for row in rows for key, value in row.items() if key in keys)
