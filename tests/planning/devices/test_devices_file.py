import json

import pytest
import yaml

from huscf.planning.command import main
from tests.planning.planning_cases import read_devices, run_command


def test_repeated_keys_are_refused_and_powers_of_ten_are_numbers(tmp_path, capsys):
    text = yaml.safe_dump(read_devices())
    path = tmp_path / "devices.yaml"
    path.write_text(text + "seed: 1\n")
    assert main(["--config", str(path)]) == 2
    assert "the key seed is repeated" in capsys.readouterr().err
    path.write_text(text + "bytes_weight: 1e-9\nmax_latency_s: 1E+3\n")
    assert main(["--config", str(path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    traffic = 1e-9 * values["traffic_bytes_per_step"]
    assert values["objective_value"] == pytest.approx(values["latency_s"] + traffic)


def drop(*path):
    def change(values):
        for key in path[:-1]:
            values = values[key]
        del values[path[-1]]

    return change


def put(value, *path):
    def change(values):
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return change


BAD_FILES = [
    (drop("profiles", "device2", "uplink_mbit_per_s"), "device2: uplink_mbit_per_s is missing"),
    (drop("profiles", "device1", "clock_mhz"), "device1: speed_gflops"),
    (put(0, "profiles", "device3", "downlink_mbit_per_s"), "downlink_mbit_per_s is 0"),
    (put("50 Mbit", "profiles", "device3", "uplink_mbit_per_s"), "uplink_mbit_per_s is '50 Mbit'"),
    (put(float("nan"), "server", "clock_mhz"), "server: clock_mhz is nan"),
    (put(50, "profiles", "device3", "uplink"), "unknown key uplink"),
    (put(10, "assignment", "num_clients"), "counts sum to 100, num_clients is 10"),
    (put(-1, "assignment", "counts", "device1"), "device1 is -1"),
    (put(3, "assignment", "counts", "tablet"), "name the profile tablet"),
    (put({"shares": {"device1": 0.4}}, "assignment"), "shares sum to 0.4"),
    (put({"shares": {"device1": 1}}, "assignment"), "num_clients is missing"),
    (put(0.001, "profiles", "device4", "memory_mib"), "profile device4): memory_mib"),
    (put(3, "networks", "depth"), "depth 3 is too small"),
    (put(2.5, "networks", "width"), "networks: width is 2.5"),
    (put("top", "networks", "conditioning"), "conditioning is 'top', must be one of plane, proj"),
    (put(1, "networks", "minibatch_std"), "minibatch_std is 1, must be true or false"),
    (put("fast", "strategy"), "strategy is 'fast'"),
    (put(1, "clients"), "unknown key clients"),
    (put(0, "batch_size"), "batch_size is 0"),
    (drop("server"), "server is missing"),
    (put([], "profiles"), "profiles: must map"),
    (put({"generator_head": 2}, "forbidden_cuts"), "forbidden_cuts: must map"),
    (put({"generator_head": ["1"]}, "forbidden_cuts"), "generator_head: '1' is no whole number"),
    (put(7, "min_generator_head"), "min_generator_head 7"),
    (put("no", "common_boundary"), "common_boundary is 'no', must be true or false"),
    (put(1e-320, "profiles", "device2", "uplink_mbit_per_s"), "uplink_mbit_per_s is 9.99989e-321"),
    (put(10**399, "server", "uplink_mbit_per_s"), "server: uplink_mbit_per_s is 1000"),
    (put(10**399, "assignment", "counts", "device1"), "counts: device1 is 1000"),
    (put(10**399, "max_latency_s"), "max_latency_s is 1000"),
    (put(10**399, "batch_size"), "batch_size is 1000"),
    (put({1: 3, "1": 4}, "assignment", "counts"), "the key 1 is repeated"),
    (put({1: {}, "1": {}}, "profiles"), "the key 1 is repeated"),
]


@pytest.mark.parametrize(
    ("change", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES]
)
def test_bad_files_get_one_clear_line(tmp_path, capsys, change, message):
    values = read_devices()
    change(values)
    output = tmp_path / "plan.yaml"
    assert run_command(tmp_path, values, "--output", str(output)) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.err.count("\n") == 1 and streams.out == ""
    assert not output.exists()


def test_keys_without_a_value_have_their_defaults_and_numbers_may_be_names(tmp_path, capsys):
    values = read_devices()
    values |= dict.fromkeys(("seed", "steps_per_round", "latency_weight", "min_generator_head"))
    for number, name in enumerate(list(values["profiles"])):
        values["profiles"][number] = values["profiles"].pop(name)
        values["assignment"]["counts"][number] = values["assignment"]["counts"].pop(name)
    assert run_command(tmp_path, values, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seed"] == 0
    assert {client["profile"] for client in found["clients"]} == set("0123456")
