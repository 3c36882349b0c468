import json

import yaml

from huscf.planning.command import main
from tests.planning.planning_cases import read_devices, run_command


def test_calibration_writes_a_profile_that_is_read(tmp_path, capsys):
    path = tmp_path / "here.yaml"
    links = ["--uplink_mbit_per_s", "40", "--downlink_mbit_per_s", "80"]
    assert main(["--calibrate", str(path), *links]) == 0
    values = read_devices()
    values["profiles"] |= yaml.safe_load(path.read_text())["profiles"]
    values["assignment"] = {"shares": {"this_machine": 0.5, "device1": 0.5}, "num_clients": 5}
    capsys.readouterr()
    assert run_command(tmp_path, values, "--json") == 0
    profiles = [c["profile"] for c in json.loads(capsys.readouterr().out)["clients"]]
    assert sorted(profiles) in (
        ["device1"] * 2 + ["this_machine"] * 3,
        ["device1"] * 3 + ["this_machine"] * 2,
    )
