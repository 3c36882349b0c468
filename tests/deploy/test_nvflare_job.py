"""A job for NVFlare: what is written, what is not, and what is refused in one line."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from huscf.__main__ import main
from huscf.deploy import nvflare_job
from huscf.deploy.join_options import JoinOptions
from huscf.deploy.nvflare_job import count_needed, make_roster
from huscf.deploy.run_config import read_run_config
from huscf.errors import HuscfError
from huscf.trust import Trust
from tests.deploy.cases import write_config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command as where NVFlare is installed, which it needs for nothing that it writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nvflare_job, "find_spec", lambda name: name)
    data = {"root": "/the/hospital/s/own", "participation": 0.5}
    write_config(tmp_path / "run.yaml", data=data)
    return lambda *options: main(["nvflare", "--config", "run.yaml", *options])


def read(path):
    return json.loads(path.read_text())


def test_a_job_has_an_app_for_the_server_and_one_for_the_sites(run, tmp_path, capsys):
    assert run("--sites", "a", "b", "--output", "job") == 0
    said = capsys.readouterr().out
    assert "nvflare simulator job -w work -c a,b -t 2\n" in said
    job = tmp_path / "job"
    assert sorted(str(p.relative_to(job)) for p in job.rglob("*") if p.is_file()) == [
        "meta.json",
        "server_app/config/config_fed_server.json",
        "server_app/config/run.yaml",
        "site_app/config/config_fed_client.json",
    ]
    meta = read(job / "meta.json")
    assert meta["deploy_map"] == {"server_app": ["server"], "site_app": ["a", "b"]}
    assert meta["min_clients"] == 2 and meta["name"] == "tiny"
    (workflow,) = read(job / "server_app/config/config_fed_server.json")["workflows"]
    (executor,) = read(job / "site_app/config/config_fed_client.json")["executors"]
    assert workflow["args"] == {"roster": {"a": [0], "b": [1]}, "config": "run.yaml"}
    # What NVFlare is told to make exists, in the module that sites are told to allow.
    for path, name in (
        (workflow["path"], "ServerPart"),
        (executor["executor"]["path"], "SitePart"),
    ):
        assert path == nvflare_job.ALLOWED + name
        found = importlib.util.find_spec(path.rpartition(".")[0])
        assert f"\nclass {name}(" in Path(found.origin).read_text()


def test_a_job_says_the_same_run_again_and_names_no_data(run, tmp_path):
    assert run("--sites", "a", "b", "--output", "job", "--trainer.max_steps=7") == 0
    path = tmp_path / "job" / "server_app" / "config" / "run.yaml"
    assert "hospital" not in path.read_text() and "DataModule" not in path.read_text()
    before = read_run_config(["--config", "run.yaml", "--trainer.max_steps=7"])
    again = read_run_config(["--config", str(path)], Trust())
    assert again.method_values == before.method_values
    assert (again.max_steps, again.max_epochs, again.seed) == (7, 2, 0)
    assert again.sites.steps_per_epoch == before.sites.steps_per_epoch == 2
    assert again.attendance == before.attendance and again.attendance.participation == 0.5


def test_a_roster_gives_sites_several_clients_and_the_job_the_sites_that_it_needs(run, tmp_path):
    (tmp_path / "roster.yaml").write_text("a: [0]\nb: [1, 2, 3]\nc: [4]\n")
    sites = ("--sites", "a", "b", "c", "--roster", "roster.yaml")
    assert run(*sites, "--output", "job") == 0
    assert read(tmp_path / "job" / "meta.json")["min_clients"] == 3
    for least, count in ((1, 1), (3, 1), (4, 2), (5, 3)):
        config = read_run_config(["--config", "run.yaml", f"--sites.min_clients={least}"])
        assert count_needed(config, make_roster(["a", "b", "c"], tmp_path / "roster.yaml")) == count
    with pytest.raises(HuscfError, match="min_clients: 6, and the sites have 5 clients"):
        config = read_run_config(["--config", "run.yaml", "--sites.min_clients=6"])
        count_needed(config, make_roster(["a", "b", "c"], tmp_path / "roster.yaml"))


MD_GAN = '{"class_path": "huscf.methods.MdGan"}'


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--sites", "a", "server"], "site 'server': letters, digits"),
        (["--sites", "a", "../b"], "site '../b': letters, digits"),
        (["--sites", "a", "a"], "--sites: a name is given twice"),
        (["--sites", *(f"s{n}" for n in range(41))], "--sites: 41, of which NVFlare's server"),
        (["--sites", "a", "--roster", "roster.yaml"], "--sites: lacks c, which --roster has"),
        (["--sites", "a", "c", "d", "--roster", "roster.yaml"], "--roster: lacks d"),
        (["--sites", "a", "--roster", "none.yaml"], "roster none.yaml: cannot be read"),
        (["--sites", "a", "--output", "full"], "full: holds something already"),
        (["--sites", "a", "--output", "run.yaml"], "run.yaml: holds something already"),
        (
            ["--sites", "a", "--sites.min_clients", "2"],
            "sites.min_clients: 2, and the sites have 1",
        ),
        (["--sites", "a", "--model.method", MD_GAN], "MdGan needs the server to draw"),
        (["--sites", "a", "--sites.metrics_port", "0"], "sites.metrics_port: NVFlare starts"),
        (["--sites", "a", "--nonsense", "1"], "nonsense"),
        ([], "--sites; see huscf nvflare --help"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, tmp_path, options, line, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "roster.yaml").write_text("a: [0]\nc: [1]\n")
    before = sorted(tmp_path.rglob("*"))
    output = [] if "--output" in options else ["--output", "job"]
    try:
        code = run(*options, *output)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and line in error and error.count("\n") == 1, error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_method_of_ones_own_is_refused_since_sites_would(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "outside_huscf.py").write_text(
        "from huscf.methods import HuscfGan\nclass Mine(HuscfGan):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run("--sites", "a", "--output", "job", "--model.method=outside_huscf.Mine") == 2
    error = capsys.readouterr().err
    assert "names code outside huscf, which NVFlare's sites" in error and error.count("\n") == 1
    assert not (tmp_path / "job").exists()


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(nvflare_job, "find_spec", lambda name: None)
    assert main(["nvflare", "--sites", "a", "--output", "job"]) == 2
    assert capsys.readouterr().err == (
        "huscf: error: nvflare needs the extra nvflare: pip install 'huscf[nvflare]'\n"
    )


def test_help_says_what_each_side_needs(capsys):
    with pytest.raises(SystemExit):
        main(["nvflare", "--help"])
    said = capsys.readouterr().out
    for word in (
        "pip install 'huscf[nvflare]'",
        "class_allow_list",
        "local/NAME.yaml",
        "simulator",
    ):
        assert word in said
    assert nvflare_job.ALLOWED in said and "none that is lost" in said


def test_a_sites_configuration_says_how_it_joins(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"data": {"class_path": "x"}}))
    assert JoinOptions.read(path) == JoinOptions(None, 0, False, True, 0)
    path.write_text(yaml.safe_dump({"join": {"clients": [2], "secret": False, "samples": 3}}))
    assert JoinOptions.read(path) == JoinOptions([2], 3, False, False, 0)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"sample": 3}, "sample"),
        ({"samples": -1}, "join.samples is -1"),
        ({"samples": "many"}, "samples"),
        ({"clients": "all"}, "clients"),
        ({"secret": 3}, "secret"),
        ("text", "join"),
    ],
)
def test_what_is_wrong_in_it_is_one_line(tmp_path, section, reason):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"join": section}))
    with pytest.raises(HuscfError, match=reason) as caught:
        JoinOptions.read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
