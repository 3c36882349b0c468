import json
import subprocess
import sys

import pytest
import torch
import yaml

from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.planning import SearchedPlan
from huscf.planning.command import main
from huscf.split import CutPlan, PlanRequest
from tests.conftest import make_batch, make_gan, run_step
from tests.planning.planning_cases import DEVICES, find_boundary

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


def read_devices():
    """The paper's devices, with narrow networks that are measured fast."""
    values = yaml.safe_load(DEVICES.read_text())
    values["networks"]["width"] = 8
    return values


def run(tmp_path, values, *flags):
    path = tmp_path / "devices.yaml"
    path.write_text(yaml.safe_dump(values))
    return main(["--config", str(path), *flags])


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
    assert run(tmp_path, {**read_devices(), **weights}, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["objective_value"] == pytest.approx(values["objective_bound"], rel=1e-6)
    assert values["objective_value"] == pytest.approx(1e-9 * values["traffic_bytes_per_step"])
    assert values["bound"].startswith("milp optimum")
    assert values["latency_bound"] == "linear relaxation, any plan"
    assert run(tmp_path, {**read_devices(), **weights}) == 0
    text = capsys.readouterr().out
    assert f"bound {values['lower_bound_s']:.6f} (linear relaxation, any plan)" in text
    objective, bound = values["objective_value"], values["objective_bound"]
    assert f"objective {objective:.6g}   bound {bound:.6g} (milp optimum" in text


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


def test_one_file_is_never_written_twice(tmp_path, capsys):
    values, path = read_devices(), tmp_path / "pp.png"
    flags = ["--overwrite", "--pareto", str(path)]
    for other in (str(path), f"{tmp_path}/./pp.png"):
        assert run(tmp_path, values, *flags, "--output", other) == 2
        assert "two of them name the same file" in capsys.readouterr().err
    devices = tmp_path / "devices.yaml"
    assert run(tmp_path, values, "--overwrite", "--output", str(devices)) == 2
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
        assert run(tmp_path, values, "--json", "--output", str(path), *flags) == 0
        assert (find_boundary(CutPlan.load(path)) is None) == bool(flags)
        seconds.append(json.loads(capsys.readouterr().out)["latency_s"])
    assert seconds[1] < seconds[0]


def test_paper_figures_through_the_command(capsys):
    flags = ["--latency_model", "paper", "--strategy", "exact", "--json"]
    assert main(["--config", str(DEVICES), *flags]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["latency_s"] == pytest.approx(8.140490, abs=5.1e-7)
    assert values["gap"] == 0


def test_table_names_profiles_stages_and_bound(capsys):
    assert main(["--config", str(DEVICES)]) == 0
    text = capsys.readouterr().out
    for word in ("device7", "generator_forward", "latency 28.1453", "bound", "gap", "seed 0"):
        assert word in text


def test_outputs_are_written_and_never_overwritten_unasked(tmp_path, capsys):
    names = ("plan.yaml", "plan.png", "pareto.png")
    plan, picture, pareto = (tmp_path / name for name in names)
    flags = ["--output", str(plan), "--picture", str(picture), "--pareto", str(pareto)]
    assert run(tmp_path, read_devices(), "--json", *flags) == 0
    clients = json.loads(capsys.readouterr().out)["clients"]
    loaded = CutPlan.load(plan)
    assert [entry.cuts.as_list() for entry in loaded.clients] == [c["cuts"] for c in clients]
    assert picture.read_bytes()[:4] == pareto.read_bytes()[:4] == b"\x89PNG"
    before = plan.read_bytes()
    assert run(tmp_path, read_devices(), *flags) == 2
    assert "exists already" in capsys.readouterr().err
    assert plan.read_bytes() == before
    assert run(tmp_path, read_devices(), "--overwrite", "--output", str(plan)) == 0


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
    assert run(tmp_path, values, "--output", str(output)) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.err.count("\n") == 1 and streams.out == ""
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--config", str(DEVICES), "--forbid", "head=1"], "--forbid head=1"),
        (["--config", str(DEVICES), "--output", "no/folder/plan.yaml"], "does not exist"),
        (["--config", str(DEVICES), "--max_latency_s", "0.1"], "max_latency_s"),
        (["--config", str(DEVICES), "--energy_weight", "1"], "power_w is missing"),
        (["--calibrate", "x.yaml"], "--uplink_mbit_per_s is missing"),
    ],
)
def test_bad_flags_get_one_clear_line(capsys, flags, message):
    assert main(flags) == 2
    streams = capsys.readouterr()
    assert message in streams.err and streams.err.count("\n") == 1 and streams.out == ""


@pytest.mark.parametrize("without_power", ["device1", "device7"])
def test_failed_trade_off_writes_nothing(tmp_path, capsys, without_power):
    plan, pareto = tmp_path / "plan.yaml", tmp_path / "pareto.png"
    flags = ["--output", str(plan), "--pareto", str(pareto), "--pareto_against", "energy"]
    values = read_devices()
    for name, profile in values["profiles"].items():
        if name != without_power:
            profile["power_w"] = 5
    assert run(tmp_path, values, *flags) == 2
    assert "no power_w" in capsys.readouterr().err
    assert not plan.exists() and not pareto.exists()


def test_calibration_writes_a_profile_that_is_read(tmp_path, capsys):
    path = tmp_path / "here.yaml"
    links = ["--uplink_mbit_per_s", "40", "--downlink_mbit_per_s", "80"]
    assert main(["--calibrate", str(path), *links]) == 0
    values = read_devices()
    values["profiles"] |= yaml.safe_load(path.read_text())["profiles"]
    values["assignment"] = {"shares": {"this_machine": 0.5, "device1": 0.5}, "num_clients": 5}
    capsys.readouterr()
    assert run(tmp_path, values, "--json") == 0
    profiles = [c["profile"] for c in json.loads(capsys.readouterr().out)["clients"]]
    assert sorted(profiles) in (
        ["device1"] * 2 + ["this_machine"] * 3,
        ["device1"] * 3 + ["this_machine"] * 2,
    )


def make_request(depth=5, number=3):
    shape = SampleShape(1, 28, 10)
    networks = ConditionalGenerator(shape, 16, 8, depth), ConditionalDiscriminator(shape, 8, depth)
    sizes = {10 * client: 8 for client in range(number)}
    return PlanRequest(*networks, shape, 16, sizes, seed=5)


def test_searched_plan_serves_a_training_run():
    shares = {"shares": {"device1": 1 / 3, "device7": 2 / 3}}
    source = SearchedPlan({**read_devices(), "assignment": shares}, latency_model="paper")
    plan = source.make_plan(make_request())
    assert plan.client_ids == [0, 10, 20]
    assert sorted(entry.profile for entry in plan.clients) == ["device1", "device7", "device7"]
    assert source.result is not None and source.result.plan == plan
    assert source.result.seed == 5 and source.result.latency_s > 0
    with pytest.raises(ValueError, match="needs networks of 5 blocks"):
        source.make_plan(make_request(depth=6))
    with pytest.raises(ValueError, match="counts sum to 100, but there are 3 clients"):
        SearchedPlan(str(DEVICES)).make_plan(make_request())
    with pytest.raises(ValueError, match="latency_model is 'new'"):
        SearchedPlan(str(DEVICES), latency_model="new")
    with pytest.raises(ValueError, match="precision is '16-mixed'; known: 32-true, bf16-mixed"):
        SearchedPlan(str(DEVICES), precision="16-mixed")
    with pytest.raises(ValueError, match="latency_model paper: knows 32-true only"):
        devices = {**read_devices(), "assignment": {"shares": {"device1": 1}}}
        options = {"latency_model": "paper", "precision": "bf16-mixed"}
        SearchedPlan(devices, **options).make_plan(make_request())


def test_searched_plans_keep_the_options_of_the_devices_file(tmp_path):
    values = {**read_devices(), "assignment": {"shares": {"device1": 1}}}
    limits = {"min_discriminator_head": 2, "forbidden_cuts": {"generator_tail": [1]}}
    path = tmp_path / "devices.yaml"
    path.write_text(yaml.safe_dump({**values, **limits, "strategy": None}))
    for entry in SearchedPlan(str(path)).make_plan(make_request()).clients:
        assert entry.cuts.discriminator_head >= 2 and entry.cuts.generator_tail != 1
    options = SearchedPlan(str(path), min_discriminator_head=1, strategy="milp").make_options(7)
    assert options.min_discriminator_head == 1 and options.strategy == "milp" and options.seed == 7
    assert options.forbidden_cuts == {"generator_tail": [1]} and options.common_boundary
    with pytest.raises(ValueError, match="no plan found that keeps memory"):
        SearchedPlan({**values, "max_latency_s": 1e-9}).make_plan(make_request())
    with pytest.raises(ValueError, match=r"model.plan: unknown key min_head; known: assignment"):
        SearchedPlan({**values, "min_head": 2})
    path.write_text(yaml.safe_dump({**values, "forbidden_cuts": 3}))
    with pytest.raises(ValueError, match=r"devices.yaml: forbidden_cuts: must map"):
        SearchedPlan(str(path))


@pytest.mark.parametrize(
    ("weight", "precision"), [(0.0, "32-true"), (1.0, "32-true"), (0.0, "bf16-mixed")]
)
def test_a_step_sends_what_its_plan_says(weight, precision):
    devices = {**read_devices(), "assignment": {"shares": {"device1": 0.5, "device7": 0.5}}}
    source = SearchedPlan(devices, precision=precision)
    clients = range(2)
    options = {"mismatched_weight": weight, "mismatched_steps": None}
    module = make_gan(dict.fromkeys(clients, ()), depth=5, plan=source, **options)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        run_step(module, make_batch(clients))
    assert len({entry.cuts for entry in module.plan.clients}) == 2
    assert module.exchange.total_bytes() == source.result.traffic_bytes


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


def test_keys_without_a_value_have_their_defaults_and_numbers_may_be_names(tmp_path, capsys):
    values = read_devices()
    values |= dict.fromkeys(("seed", "steps_per_round", "latency_weight", "min_generator_head"))
    for number, name in enumerate(list(values["profiles"])):
        values["profiles"][number] = values["profiles"].pop(name)
        values["assignment"]["counts"][number] = values["assignment"]["counts"].pop(name)
    assert run(tmp_path, values, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seed"] == 0
    assert {client["profile"] for client in found["clients"]} == set("0123456")
