"""A few of the kills and full disks of benchmarks/kill.py; the whole series takes minutes."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "kill.py"


@pytest.mark.skipif(sys.platform != "linux", reason="forks and small disks as Linux has them")
def test_nothing_is_lost_and_runs_go_on_bit_equal():
    # The seed picks a kill in the middle of the run.
    options = ["--moments=1", "--operations=1", "--bytes=1", "--sizes=1", "--seed=1", "--json"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {name: row["trials"] for name, row in rows.items()} == {
        "moments": 1,
        "operations": 1,
        "bytes": 1,
        "disks": 1,
    }
    assert all(row["lost"] == 0 for row in rows.values())
    assert sum(row["stopped"] for row in rows.values()) >= 3


@pytest.fixture(scope="module")
def find_difference():
    spec = importlib.util.spec_from_file_location("kill", SCRIPT)
    sys.modules["kill"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.find_difference
    del sys.modules["kill"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": [1, torch.ones(2)]}, {"a": [1, torch.ones(2)]}, ""),
        ({"a": [1, torch.ones(2)]}, {"a": [1, torch.tensor([1, 1 + 1e-7])]}, "/a/1"),
        ({"a": torch.ones(2)}, {"a": torch.ones(2, dtype=torch.float64)}, "/a"),
        ({"a": 1}, {"a": 1.0}, "/a"),
        ({"a": 1}, {"b": 1}, ": only one has ['a', 'b']"),
        ({"a": [1, 2]}, {"a": [1]}, "/a"),
        ({"p": b"1"}, {"p": b"2"}, "/p"),
    ],
)
def test_every_difference_is_found(find_difference, one, other, expected):
    assert find_difference(one, other) == expected
