"""The commands as a newcomer gives them, in processes of their own."""

import csv
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from huscf.__main__ import main
from huscf.checkpoint_io import read_checkpoint
from huscf.deploy import commands, welcome
from huscf.deploy.local import NUM_SAMPLES
from tests.deploy.cases import write_config


def start(*arguments, cwd):
    command = [sys.executable, "-m", "huscf", *map(str, arguments)]
    log = (cwd / f"{arguments[0]}-{len(list(cwd.glob('*.log')))}.log").open("w")
    with log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=cwd), log.name


def read(log):
    with open(log) as file:
        return file.read()


def wait_for(log, text, timeout_s=120):
    end = time.monotonic() + timeout_s
    while text not in read(log):
        assert time.monotonic() < end, f"no {text!r} in {read(log)}"
        time.sleep(0.1)


def test_a_site_that_is_killed_and_started_again_does_not_stop_a_run(tmp_path):
    """provision, serve and join; kill -9 of a site; the server stops with the run's end."""
    sites = ["provision", "--sites", "a", "b", "--host", "localhost", "--output"]
    assert main([*sites, str(tmp_path / "kit")]) == 0
    config = write_config(tmp_path / "run.yaml", max_epochs=3000)
    data = yaml.safe_load(config.read_text())["data"]
    for name, seed in (("a", 0), ("b", 1)):
        own = {"data": {**data, "init_args": {**data["init_args"], "clients_per_domain": [1, 1]}}}
        own["seed_everything"] = seed
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(own))
    limits = ("--sites.step_timeout_s", "2", "--sites.min_clients", "1", "--sites.progress_s", "1")
    server, log = start(
        *("serve", "--config", config, "--tls", tmp_path / "kit" / "server"),
        *("--listen", "127.0.0.1:0", *limits),
        cwd=tmp_path,
    )
    wait_for(log, "listening on port ")
    port = read(log).partition("listening on port ")[2].partition(";")[0]

    def join(name, client):
        return start(
            *("join", "--config", f"{name}.yaml", "--tls", tmp_path / "kit" / name),
            *("--address", f"localhost:{port}", "--clients", client),
            cwd=tmp_path,
        )

    (one, first), (other, second) = join("a", 0), join("b", 1)
    try:
        wait_for(second, "saved step")
        other.send_signal(signal.SIGKILL)
        other.wait()
        wait_for(log, "b lost")
        before = read(first).count("saved step")
        other, third = join("b", 1)
        wait_for(third, "here its half of step")
        wait_for(third, "saved step")
        assert read(first).count("saved step") > before
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 130
        assert "interrupted; go on with --ckpt_path last" in read(log)
        assert one.wait(120) == other.wait(120) == 1
        assert "the server has stopped" in read(first)
    finally:
        for process in (server, one, other):
            process.kill()
            process.wait()
    saved = read_checkpoint(tmp_path / "runs" / "tiny-1" / "checkpoints" / "last.ckpt")
    assert saved["huscf"]["num_rounds"] > 2
    assert "Traceback" not in read(log) + read(first) + read(third)


def one_by_one(lock, call):
    """Settings of the parser and torch's stream are those of a process, which here is one."""

    def locked(*args):
        with lock:
            return call(*args)

    return locked


class Thread(threading.Thread):
    """Runs in this process what would be a process of its own, which takes long to start."""

    def __init__(self, command, env):
        assert command[1:4] == ["-m", "huscf", "join"]
        super().__init__(target=main, args=(command[3:],), daemon=True)
        self.start()

    def wait(self, timeout_s):
        self.join(timeout_s)
        assert not self.is_alive()


def test_a_try_on_this_machine_trains_and_says_where_everything_is(tmp_path, monkeypatch, capsys):
    lock = threading.Lock()
    for owner, name in (
        (commands, "read_datamodule"),
        (welcome, "build_method"),
        (welcome, "build_networks"),
    ):
        monkeypatch.setattr(owner, name, one_by_one(lock, getattr(owner, name)))
    monkeypatch.setattr("huscf.deploy.local.subprocess.Popen", Thread)
    monkeypatch.setattr("huscf.provenance.find_commit", lambda package: "")  # it runs git
    config = write_config(tmp_path / "run.yaml")
    assert main(["serve", "--config", str(config), "--local", "2"]) == 0
    folder = tmp_path / "runs" / "tiny-1"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("charts", "checkpoints", "clients.csv", "config.yaml", "federation.csv", "metrics.csv"),
        *("plan.yaml", "provenance.json", "report.html", "server.log", "sites", "sites.csv"),
    ]
    page = (folder / "report.html").read_text()
    for heading in ("Seconds waited for sites a round", "site-1", "Traffic of every client"):
        assert heading in page
    log = (folder / "server.log").read_text().splitlines()
    assert sum("step 0: site-1 joined" in line for line in log) == 1
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", line) for line in log)
    rows, sites = (
        list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
        for name in ("metrics", "sites")
    )
    for site in sites:
        own = sum(float(row[f"traffic/{site['site']}_mbytes"]) for row in rows)
        both = float(site["uplink_mbytes"]) + float(site["downlink_mbytes"])
        assert own == pytest.approx(both)
    # The page can be made again, as from a folder whose configuration names no class of data.
    values = yaml.safe_load((folder / "config.yaml").read_text())
    for data in (None, {"steps_per_epoch": 2}):
        (folder / "report.html").unlink()
        (folder / "config.yaml").write_text(yaml.safe_dump({**values, "data": data}))
        assert main(["report", str(folder)]) == 0
        assert "at the sites" in (folder / "report.html").read_text()
    assert len(list(folder.glob("sites/site-*/*/samples/*/*/*.png"))) == 2 * 10 * NUM_SAMPLES
    assert len(list(folder.glob("sites/site-*/*/step-*.ckpt"))) == 4
    out = capsys.readouterr().out
    for line in ("site-1: joined: clients 0", "round 2 ended at step 4", "2 rounds, 4 steps"):
        assert line in out
    assert out.count("the run has ended") == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serve"], "needs --tls kit/server, or --local 2"),
        (["serve", "--config", "run.yaml", "--local", "9"], "the data has 2 clients"),
        (["serve", "--config", "run.yaml", "--local", "1", "--model.wire.class_path", "x"], "wire"),
        (
            ["serve", "--config", "run.yaml", "--local", "1", "--model.privacy", "{delta: 0.1}"],
            "model.privacy: HuscfGan reads a client's records in 2 phases",
        ),
        (["serve", "--tls", "none", "--config", "run.yaml"], "roster none"),
        (["join", "--tls", "none", "--max_epsilon", "0"], "--max_epsilon is 0.0, must be a fin"),
        (["join", "--tls", "none"], "give the folder of this party that huscf provision made"),
        (["provision", "--sites", "a", "a", "--host", "h", "--output", "k"], "given twice"),
        (["serve", "--local", "1", "--sites.step_timeout_s", "0"], "sites.step_timeout_s is 0.0"),
        (["serve", "--local", "1", "--ckpt_path", "none.ckpt"], "none.ckpt: no such file"),
    ],
)
def test_bad_input_is_one_line(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "run.yaml")
    try:
        code = main(arguments)
    except SystemExit as exit_info:
        code = exit_info.code
    error = capsys.readouterr().err
    assert code == 2 and line in error
    assert error.count("\n") == 1, error


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grpc", None)
    for name in ("huscf.deploy.commands", "huscf.deploy.grpc_wire"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(["serve", "--local", "2"]) == 2
    assert "serve needs grpc, of the extra deploy: pip install 'huscf[deploy]'" in (
        capsys.readouterr().err
    )
