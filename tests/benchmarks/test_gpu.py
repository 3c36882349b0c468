"""The script for a graphics card: what it says without one, and that all of it runs."""

import json
import subprocess
import sys

import pytest
import torch

from tests.conftest import REPOSITORY

SCRIPT = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py")]


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import gpu as module

    yield module
    sys.modules.pop("gpu", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_is_one_line_and_code_2():
    done = subprocess.run(SCRIPT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no device cuda; --device cpu --quick tries the script" in done.stderr


def test_all_of_it_runs_on_a_cpu_and_writes_its_figures(tmp_path):
    """Three processes' start and a tiny quickstart: some 15 s."""
    path = tmp_path / "gpu.json"
    command = [*SCRIPT, "--device", "cpu", "--quick", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    assert list(figures) == ["machine", "equality", "steps", "variants", "quickstart", "seconds"]
    assert figures["equality"].pop("is_equal") is True
    assert set(figures["equality"]) == {
        *("losses", "changes_of_three_steps", "changes_after_a_round", "samples", "scores"),
    }
    assert list(figures["steps"]) == ["2x3 width 4 fp32", "2x3 width 4 bf16"]
    for row in figures["steps"].values():
        assert row["ratio_to_limit"] > 0 and row["launches"] > row["launches_of_limit"] > 100
    assert [row["ours_s"] > 0 for row in figures["variants"].values()] == [True, True]
    assert figures["quickstart"]["rounds"] == 1
    hosts = json.dumps(figures["machine"])
    assert str(REPOSITORY) not in hosts and "/" not in hosts


def test_a_difference_above_the_tolerance_is_no_equality(gpu, monkeypatch):
    one = torch.tensor([1.0, -4.0])
    assert gpu.compare(one, one + torch.tensor([0.0, 0.002])) == pytest.approx(5e-4, rel=1e-3)
    other = {"cpu": one, "cuda": one * (1 + 1.1e-3)}
    monkeypatch.setattr(gpu, "follow", lambda device: {"losses": other[device]})
    found = gpu.check_equality("cuda")
    assert found["losses"] == pytest.approx(1.1e-3, rel=1e-3) and not found["is_equal"]
    assert gpu.check_equality("cpu") == {"losses": 0.0, "is_equal": True}


def test_so_many_samples_run_side_by_side_and_then_as_before(gpu):
    module = gpu.microbatch
    before = module.STACKED_SAMPLES, module.LARGE_BATCH
    with gpu.side_by_side(512):
        groups = module.divide_clients(dict.fromkeys(range(8), 64), lambda c: 0, lambda c: True)
        assert groups == [list(range(8))]
    assert before == (module.STACKED_SAMPLES, module.LARGE_BATCH)
    with gpu.side_by_side(None):
        assert len(module.divide_clients({0: 64, 1: 64}, lambda c: 0, lambda c: True)) == 2
