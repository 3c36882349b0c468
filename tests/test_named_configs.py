"""Configurations by name, from any folder: the user's own file first, then those of huscf."""

from pathlib import Path

import pytest
import yaml

from huscf.__main__ import main
from huscf.errors import HuscfError
from huscf.named_configs import find_config, list_shipped, name_all, name_configs
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read_name(given):
    return yaml.safe_load(Path(find_config(given)).read_text())["run"]["name"]


def test_every_file_of_the_repository_has_a_name():
    files = {p.resolve() for p in (REPOSITORY / "configs").rglob("*.yaml")}
    shipped = list_shipped()
    assert {path.resolve() for path in shipped.values()} == files
    assert {"quickstart", "mnist_fashion", "methods/fedgan", "paper/devices"} < set(shipped)
    line = name_all()
    assert line.startswith("audio, cifar, flow,") and "paper/{devices, method, scenario1," in line


@pytest.mark.parametrize(
    "given", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml", "./configs/quickstart"]
)
def test_a_shipped_one_is_found_as_people_write_it(given):
    assert read_name(given) == "quickstart"


def test_a_local_file_wins_with_and_without_its_ending(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("run: {name: mine}\n")
    assert find_config("quickstart") == "quickstart.yaml"
    assert find_config("quickstart.yaml") == "quickstart.yaml"
    (tmp_path / "quickstart").write_text("run: {name: bare}\n")
    assert find_config("quickstart") == "quickstart"
    (tmp_path / "medical").mkdir()  # a folder is no configuration
    assert read_name("medical") == "medical"


def test_text_and_other_options_stay_as_they_are():
    text = "{run: {name: quickstart}}"
    options = ["--config", text, "--run.name", "quickstart", "-c=cifar", "-c", "methods/vae"]
    found = name_configs(options)
    assert found[:4] == options[:4]
    shipped = list_shipped()
    assert found[4:] == [f"-c={shipped['cifar']}", "-c", str(shipped["methods/vae"])]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("quikstart", "quickstart"),
        ("fedgan", "methods/fedgan"),
        ("method/fedgan", "methods/fedgan"),
        ("mnist-fashion.yaml", "mnist_fashion"),
        ("minne.yaml", "mine.yaml"),
    ],
)
def test_an_unknown_one_is_one_line_with_the_likeliest_and_the_list(tmp_path, given, meant):
    (tmp_path / "mine.yaml").write_text("{}\n")
    with pytest.raises(HuscfError) as caught:
        find_config(given)
    message = str(caught.value)
    assert message.startswith(f"config {given}: there is no such file, and none of that name")
    assert f"; did you mean {meant}?; there are audio, cifar, " in message
    assert "\n" not in message


@pytest.mark.parametrize("command", ["fit", "check-data", "plan", "bench", "serve"])
def test_every_command_says_so(command, capsys):
    assert main([command, "--config", "zzz"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("huscf: error: config zzz: there is no such file")
    assert "did you mean" not in line and "quickstart" in line and line.count("\n") == 1


def test_fit_reads_a_shipped_one_and_an_overlay_by_name(capsys):
    options = ["--config", "quickstart", "--config", "methods/fedgan", "--print_config"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *options])
    assert ended.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["run"]["name"] == "quickstart"
    assert config["model"]["method"]["class_path"] == "huscf.methods.FedGan"


def test_plan_and_check_data_read_shipped_ones(capsys, tmp_path):
    assert main(["plan", "--config", "paper/devices", "--strategy", "uniform", "--json"]) == 0
    assert '"latency_s"' in capsys.readouterr().out
    assert main(["check-data", "--config", "quickstart", "--output", "a.png"]) == 0
    assert "digits: 1442 samples to train on, 355 held out" in capsys.readouterr().out


def test_a_bench_file_names_its_configurations():
    from huscf.bench import Grid

    grid = Grid.load([list_shipped()["bench/digits"]])
    shipped = {name: str(path) for name, path in list_shipped().items()}
    assert grid.base == (shipped["quickstart"],)
    assert grid.methods[1].configs == (shipped["methods/fedgan"],)
    assert grid.devices == shipped["bench/devices"]
