"""The benchmark scripts run and print the keys that they promise; no time is tested."""

import importlib
import json
import subprocess
import sys

import pytest
import torch

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
            "step.py",
            ["--workloads=2x3", "--widths=4", "--method", "MdGan", "HflGan", "FlowMatching"],
            {"ratio_to_limit", "ours_s", "limit_s"},
        ),
        (
            "step.py",
            ["--workloads=2x3", "--widths=4", "--method", "PooledGan", "--memory"],
            {"ratio_to_needed", "ratio_to_kept", "state_mib", "microbatch_mib", "kept_mib"},
        ),
        (
            "round.py",
            ["--clients=3", "--batch_size=3", "--width=4"],
            {"round_share", "speedup_averaging"},
        ),
        (
            "scale.py",
            ["--clients=2", "--batch_size=3", "--width=4"],
            {"steps_per_s", "peak_mib", "ms_per_client", "state_mib"},
        ),
        (
            "scale.py",
            ["--clients=4", "--present=2", "--batch_size=3", "--width=4"],
            {"steps_per_s", "peak_mib", "ms_per_client", "state_mib"},
        ),
        (
            "rank_runs.py",
            ["--clients=2", "--batch_size=3", "--width=4"],
            {"memory_over_one", "cpu_over_one", "clock_over_threads", "peak_mib_ranks"},
        ),
    ],
)
def test_each_script_prints_one_object(script, options, keys):
    command = [sys.executable, str(REPOSITORY / "benchmarks" / script), *TINY, *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(output).values()
    assert all(keys <= row.keys() for row in rows)
    assert all(value > 0 for row in rows for key, value in row.items() if key in keys)


def test_ways_to_federate_are_compared_and_nothing_is_run_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    script = str(REPOSITORY / "benchmarks" / "federation.py")
    output = tmp_path / "rows.jsonl"
    named = ["clustered", "oracle", "pooled", "paper", "flow"]
    options = ["--rows", *named, "--skews", "iid", "--seeds", "0", "--usefulness", "1"]
    options += ["--domains", "digits", "negatives", "--samples_per_client", "100"]
    options += ["--batch_size", "8", "--steps_per_round", "3", "--checkpoints", "9"]
    options += ["--width", "8", "--num_per_class", "5", "--output", str(output)]
    options += ["--guidances", "1"]
    command = [sys.executable, script, *options, "--plain_judge", "--each_client"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    unguided = lines.pop()
    rows = {line["row"]: line for line in lines}
    assert list(rows) == named
    assert [len(row["ari"]) for row in lines] == [3] * 5
    assert unguided.pop("guidance") == 1 and unguided.pop("scores") != rows["flow"]["scores"]
    assert unguided.items() < rows["flow"].items(), "trained once, drawn twice"
    assert rows["oracle"]["ari"] == rows["pooled"]["ari"] == [1.0, 1.0, 1.0]
    assert rows["oracle"]["sizes"] == [100] * 8
    # The paper averages everyone in the first two rounds, and is then told the domains.
    assert rows["paper"]["ari"] == [0.0, 0.0, 1.0]
    assert rows["paper"]["sizes"] == [100] * 8
    assert rows["pooled"]["sizes"] == [400] * 2
    main = ("generation_score", "label_accuracy", "frechet_distance", "downstream_accuracy")
    plain = ("plain_generation_score", "plain_label_accuracy")
    together, single = (rows[name]["scores"]["negatives"] for name in ("clustered", "pooled"))
    others = {"precision", "recall", "nearest_real_ratio"}
    others |= {f"downstream_accuracy_{data}" for data in ("pooled", "own", "mixed")}
    others |= {f"downstream_gain_{which}" for which in ("least", "median", "most")}
    assert together.keys() == {*main, *plain, *others, *(f"each_client_{s}" for s in main)}
    assert together["each_client_frechet_distance"] != together["frechet_distance"]
    # One client by itself is all there is of a pooled domain; its samples were kept as bytes.
    each = [single[f"each_client_{score}"] for score in main]
    assert each == pytest.approx([single[score] for score in main], rel=2e-3)
    assert "negatives plain label accuracy" in table
    assert sum(line.startswith("| iid") for line in table.splitlines()) == 6
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert again == table
    assert len(output.read_text().splitlines()) == 6


def test_clusters_are_found_and_counted_alike_with_and_without_training(tmp_path):
    script, output = str(REPOSITORY / "benchmarks" / "clusters.py"), tmp_path / "rows.jsonl"
    options = ["--rows", "digits", "--skews", "iid", "--seeds", "0", "1", "--rounds", "2"]
    options += ["--epochs", "1", "--steps", "2", "--batch_size", "16", "--width", "4"]
    command = [sys.executable, script, *options, "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    table = subprocess.run(
        [*command, "--untrained"], check=True, capture_output=True, text=True
    ).stdout
    runs = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(run["seed"], run["untrained"]) for run in runs] == [
        *((0, False), (1, False)),
        *((0, True), (1, True)),
    ]
    for trained, untrained in zip(runs[:2], runs[2:], strict=True):
        assert trained["ari"] == untrained["ari"] == [1.0, 1.0]
        assert trained["clusters"] == untrained["clusters"] == [2, 2]
        assert trained["margin"] == untrained["margin"]
        assert (trained["false_merges"], trained["false_splits"]) == (0, 0)
        assert trained["seconds"]["steps"] > 10 * untrained["seconds"]["steps"]
    assert sum(line.startswith("| digits") for line in table.splitlines()) == 4
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert again == table


def test_a_step_on_many_processes_is_simulated_with_their_own_division(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    ranks = importlib.import_module("ranks")
    costs = ranks.Costs(microbatch_s=1.0, fixed_s=0.5, node_bytes=1000, add_s=0.25)
    alone = ranks.simulate(costs, 8, 1, 1e3, 0.0)
    assert (alone["step_s"], alone["efficiency"], alone["mbytes"]) == (8.5, 1.0, 0.0)
    # Two processes have a whole subtree each: one node, one addition.
    two = ranks.simulate(costs, 8, 2, 1e3, 0.0)
    assert (two["nodes"], two["mbytes"]) == (1, 0.001)
    assert two["step_s"] == 0.5 + 4 * 1.0 + 1.0 + 0.25
    assert two["efficiency"] == 8.5 / (2 * two["step_s"])
    # Three have 3, 2 and 3 of 8 leaves: 0-1 and 2; 3 and 4; 5 and 6-7.
    three = ranks.simulate(costs, 8, 3, 1e3, 0.001)
    assert (three["nodes"], three["mbytes"]) == (2, 0.004)
    assert three["step_s"] == pytest.approx(0.5 + 3.0 + 4.0 + 12 * 0.001 + 5 * 0.25)


def test_ways_of_labels_into_a_unet_are_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    script = str(REPOSITORY / "benchmarks" / "conditioning.py")
    options = ["--dataset", "digits", "--steps", "6", "--batch_size", "16", "--width", "8"]
    command = [sys.executable, script, *options, "--num_per_class", "5"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [line.split(" | ") for line in table.splitlines() if "|---" not in line]
    assert [row[0].strip("| ") for row in rows[1:]] == ["both ends", "every block", "maps"]
    # They begin alike and train on the same batches, and differ in labels alone.
    assert len({tuple(row[1:]) for row in rows[1:]}) == 3
    assert rows[0][-1] == "downstream accuracy |"


def test_what_autograd_keeps_is_counted_once_and_while_it_is_kept(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    count_kept = importlib.import_module("step_memory").count_kept
    weight = torch.ones(100, 50, requires_grad=True)
    left_out = {weight.untyped_storage().data_ptr()}

    def step():
        for _ in range(2):  # the first is let go before the second
            samples = torch.ones(10, 100, requires_grad=True)
            hidden = samples.mm(weight)  # keeps both
            (hidden.exp().sqrt()).sum().backward()  # both keep their results, 10 x 50

    assert count_kept(step, left_out) == 4 * (1000 + 500 + 500)
    assert count_kept(step, set()) == 4 * (1000 + 500 + 500 + 5000)
