import json
import subprocess
import sys

import pytest
import yaml

from huscf.planning.command import main
from huscf.split import CutPlan
from tests.planning.planning_cases import DEVICES, find_boundary, read_devices, run_command

KEYS = {
    "latency_s",
    "lower_bound_s",
    "gap",
    "seconds",
    "strategy",
    "latency_model",
    "seed",
    "stages",
    "clients",
}


def test_json_is_one_object_and_nothing_else(capsys):
    assert main(["--config", str(DEVICES), "--json", "--seed", "3"]) == 0
    output = capsys.readouterr()
    values = json.loads(output.out)
    assert set(values) >= KEYS
    assert output.err == ""
    assert values["seed"] == 3 and len(values["clients"]) == 100
    assert sum(values["stages"].values()) == pytest.approx(values["latency_s"])
    assert set(values["clients"][0]) == {"client", "profile", "cuts", "memory_bytes"}
    profiles = [client["profile"] for client in values["clients"]]
    assert profiles.count("device1") == 15 and profiles[:15] != ["device1"] * 15


def test_with_weights_every_bound_stands_beside_its_own_figure(tmp_path, capsys):
    weights = {"latency_weight": 0, "bytes_weight": 1e-9, "strategy": "milp"}
    assert run_command(tmp_path, {**read_devices(), **weights}, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["objective_value"] == pytest.approx(values["objective_bound"], rel=1e-6)
    assert values["objective_value"] == pytest.approx(1e-9 * values["traffic_bytes_per_step"])
    assert values["bound"].startswith("milp optimum")
    assert values["latency_bound"] == "linear relaxation, any plan"
    assert run_command(tmp_path, {**read_devices(), **weights}) == 0
    text = capsys.readouterr().out
    assert f"bound {values['lower_bound_s']:.6f} (linear relaxation, any plan)" in text
    objective, bound = values["objective_value"], values["objective_bound"]
    assert f"objective {objective:.6g}   bound {bound:.6g} (milp optimum" in text


def test_one_file_is_never_written_twice(tmp_path, capsys):
    values, path = read_devices(), tmp_path / "pp.png"
    flags = ["--overwrite", "--picture", str(path)]
    for other in (str(path), f"{tmp_path}/./pp.png"):
        assert run_command(tmp_path, values, *flags, "--output", other) == 2
        assert "two of them name the same file" in capsys.readouterr().err
    devices = tmp_path / "devices.yaml"
    assert run_command(tmp_path, values, "--overwrite", "--output", str(devices)) == 2
    assert yaml.safe_load(devices.read_text()) == values and not path.exists()


def test_common_boundary_can_be_left_out(tmp_path, capsys):
    kinds = {"d0": (10, 300, 50, 40), "d1": (2, 5, 300, 10), "d2": (2, 20, 100, 10)}
    names = ("speed_gflops", "uplink_mbit_per_s", "downlink_mbit_per_s", "round_trip_ms")
    values = {
        "profiles": {k: dict(zip(names, v, strict=True)) for k, v in kinds.items()},
        "server": {"speed_gflops": 672, "uplink_mbit_per_s": 1000, "downlink_mbit_per_s": 1000},
        "assignment": {"counts": {"d0": 4, "d1": 2, "d2": 2}},
        "networks": {"image_size": 8, "width": 16},
    }
    seconds = []
    for flags in ([], ["--common_boundary", "false"]):
        path = tmp_path / f"plan{len(seconds)}.yaml"
        assert run_command(tmp_path, values, "--json", "--output", str(path), *flags) == 0
        assert (find_boundary(CutPlan.load(path)) is None) == bool(flags)
        seconds.append(json.loads(capsys.readouterr().out)["latency_s"])
    assert seconds[1] < seconds[0]


def test_networks_larger_than_any_memory_are_one_line(tmp_path, capsys):
    values = yaml.safe_load(DEVICES.read_text())
    values["networks"] = {"num_classes": 1 << 30}
    assert run_command(tmp_path, values) == 2
    error = capsys.readouterr().err
    assert "networks: of these sizes they need more memory than there is" in error
    assert error.count("\n") == 1


def test_paper_figures_through_the_command(capsys):
    flags = ["--latency_model", "paper", "--strategy", "exact", "--json"]
    assert main(["--config", str(DEVICES), *flags]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["latency_s"] == pytest.approx(8.140490, abs=5.1e-7)
    assert values["gap"] == 0


def test_table_names_profiles_stages_and_bound(capsys):
    assert main(["--config", str(DEVICES)]) == 0
    text = capsys.readouterr().out
    for word in ("device7", "generator_forward", "latency 28.1453", "gap 0.0000%", "seed 0"):
        assert word in text
    assert "(milp optimum, one set of cuts per group)" in text


def test_outputs_are_written_and_never_overwritten_unasked(tmp_path, capsys):
    plan, picture = tmp_path / "plan.yaml", tmp_path / "plan.png"
    flags = ["--output", str(plan), "--picture", str(picture)]
    assert run_command(tmp_path, read_devices(), "--json", *flags) == 0
    clients = json.loads(capsys.readouterr().out)["clients"]
    loaded = CutPlan.load(plan)
    assert [entry.cuts.as_list() for entry in loaded.clients] == [c["cuts"] for c in clients]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    before = plan.read_bytes()
    assert run_command(tmp_path, read_devices(), *flags) == 2
    assert "exists already" in capsys.readouterr().err
    assert plan.read_bytes() == before
    assert run_command(tmp_path, read_devices(), "--overwrite", "--output", str(plan)) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing"),
        (["--config", "nowhere.yaml"], "config nowhere.yaml: there is no such file"),
        (["--config", str(DEVICES), "--forbid", "head=1"], "--forbid head=1"),
        (["--config", str(DEVICES), "--output", "no/folder/plan.yaml"], "does not exist"),
        (["--config", str(DEVICES), "--max_latency_s", "0.1"], "max_latency_s"),
        (["--config", str(DEVICES), "--energy_weight", "1"], "power_w is missing"),
        (["--calibrate", "x.yaml"], "--uplink_mbit_per_s is missing"),
        (["--config", str(DEVICES), "--method", "Nope"], "on the command line: method: Nope is"),
        (
            ["--config", str(DEVICES), "--batch_size", "-2"],
            "plan: on the command line: plan: batch_size is -2, must be a whole number from 1 to",
        ),
        (["--config", str(DEVICES), "--batch_size", "0"], "batch_size is 0, must be a whole numb"),
        (["--config", str(DEVICES), "--picture", "p.xyz"], "--picture p.xyz: it is a PNG: let"),
        (["--config", str(DEVICES), "--picture", "p"], "--picture p: it is a PNG: let its name"),
        (["--config", str(DEVICES), "--picture", ""], "--picture is empty: name a file"),
        (["--config", str(DEVICES), "--output", ""], "--output is empty: name a file"),
        (["--calibrate", ""], "--calibrate is empty: name a file"),
    ],
)
def test_bad_flags_get_one_clear_line(capsys, flags, message):
    assert main(flags) == 2
    streams = capsys.readouterr()
    assert message in streams.err and streams.err.count("\n") == 1 and streams.out == ""


def test_a_fault_of_the_file_is_the_file_s_whatever_the_options(tmp_path, capsys):
    assert run_command(tmp_path, {**read_devices(), "seed": -1}, "--batch_size", "8") == 2
    assert f"huscf plan: {tmp_path / 'devices.yaml'}: plan: seed is -1" in capsys.readouterr().err


def test_planning_needs_neither_lightning_nor_drawing():
    code = (
        "import sys; from huscf.planning.command import main; "
        f"main(['--config', {str(DEVICES)!r}, '--json', '--latency_model', 'paper']); "
        "bad = {'lightning', 'sklearn', 'matplotlib', 'scipy', 'torch._dynamo'}; "
        "bad &= set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
