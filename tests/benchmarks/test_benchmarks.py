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


def test_ways_to_federate_are_compared_and_nothing_is_run_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    script = str(REPOSITORY / "benchmarks" / "federation.py")
    output = tmp_path / "rows.jsonl"
    options = ["--rows", "clustered", "oracle", "pooled", "paper", "--skews", "iid", "--seeds", "0"]
    options += ["--domains", "digits", "negatives", "--samples_per_client", "100"]
    options += ["--batch_size", "8", "--steps_per_round", "3", "--checkpoints", "9"]
    options += ["--width", "4", "--num_per_class", "10", "--output", str(output)]
    command = [sys.executable, script, *options, "--plain_judge", "--each_client"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    rows = {line["row"]: line for line in lines}
    assert list(rows) == ["clustered", "oracle", "pooled", "paper"]
    assert [len(row["ari"]) for row in lines] == [3, 3, 3, 3]
    assert rows["oracle"]["ari"] == rows["pooled"]["ari"] == [1.0, 1.0, 1.0]
    assert rows["oracle"]["sizes"] == [100] * 8
    # The paper averages everyone in the first two rounds, and is then told the domains.
    assert rows["paper"]["ari"] == [0.0, 0.0, 1.0]
    assert rows["paper"]["sizes"] == [100] * 8
    assert rows["pooled"]["sizes"] == [400] * 2
    main = ("generation_score", "label_accuracy", "frechet_distance", "downstream_accuracy")
    plain = ("plain_generation_score", "plain_label_accuracy")
    together, single = (rows[name]["scores"]["negatives"] for name in ("clustered", "pooled"))
    assert together.keys() == {*main, *plain, *(f"each_client_{score}" for score in main)}
    assert together["each_client_frechet_distance"] != together["frechet_distance"]
    # One client by itself is all there is of a pooled domain.
    assert [single[f"each_client_{score}"] for score in main] == [single[score] for score in main]
    assert "negatives plain label accuracy" in table
    assert sum(line.startswith("| iid") for line in table.splitlines()) == 4
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert again == table
    assert len(output.read_text().splitlines()) == 4
