"""Over slow links, in a network namespace where that is allowed; a site is a process of its own."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from huscf.deploy.grpc_wire import GrpcServer
from huscf.deploy.kits import Tls, write_kits
from huscf.deploy.run_config import read_run_config
from huscf.deploy.server_run import ServerRun
from tests.deploy.cases import write_config

#: By process: what one that was killed has left behind is not in the way.
HERE, THERE = (f"10.213.{os.getpid() % 250}.{number}" for number in (1, 2))


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def namespace():
    """The name of a namespace behind a pair of virtual links, this end's name, and that end's."""
    if not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("needs ip and tc, of iproute2")
    name = f"huscf{os.getpid() % 100_000}"
    made = run("ip", "netns", "add", name)
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    near, far = f"{name}a", f"{name}b"
    inside = ("ip", "netns", "exec", name)
    try:
        for command in (
            ("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name),
            ("ip", "addr", "add", f"{HERE}/30", "dev", near),
            ("ip", "link", "set", near, "up"),
            (*inside, "ip", "addr", "add", f"{THERE}/30", "dev", far),
            (*inside, "ip", "link", "set", far, "up"),
        ):
            done = run(*command)
            if done.returncode:
                pytest.skip(f"no virtual links here: {done.stderr.strip()}")
        yield inside, near, far
    finally:
        run("ip", "link", "del", near)
        run("ip", "netns", "del", name)


def shape(namespace, *rule):
    inside, near, far = namespace
    for where, device in (((), near), (inside, far)):
        done = run(*where, "tc", "qdisc", "add", "dev", device, "root", *rule)
        if done.returncode:
            pytest.skip(f"this kernel has no {rule[0]}: {done.stderr.strip()}")


@pytest.mark.parametrize("rate", [4, 30])
@pytest.mark.parametrize(
    "rule",
    [
        ("tbf", "rate", "{}mbit", "burst", "32kb", "latency", "400ms"),
        ("netem", "rate", "{}mbit", "delay", "25ms", "loss", "1%"),
    ],
    ids=["slow", "slow_far_and_lossy"],
)
def test_a_site_behind_a_slow_link_trains_and_measures_it(namespace, rule, rate, tmp_path):
    shape(namespace, *(part.format(rate) for part in rule))
    config = write_config(tmp_path / "run.yaml", data={"batch_size": 40})
    write_kits(tmp_path / "kit", {"far": [0, 1]}, HERE)
    served = tmp_path / "served"
    served.mkdir()
    server = ServerRun(
        read_run_config(["--config", str(config)]), {"far": (0, 1)}, served, say=lambda line: None
    )
    network = GrpcServer(server.sessions, Tls.read(tmp_path / "kit" / "server"), f"{HERE}:0")
    command = [
        *(*namespace[0], sys.executable, "-m", "huscf", "join", "--config", str(config)),
        *("--tls", str(tmp_path / "kit" / "far"), "--address", f"{HERE}:{network.port}"),
        *("--output", str(tmp_path / "half"), "--num_threads", "1", "--calibrate"),
    ]
    log = (tmp_path / "far.log").open("w")
    site = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        assert server.sessions.wait_for(lambda: "far" in server.roll.joined, 120)
        started, before = time.monotonic(), sum(server.sessions.num_bytes.values())
        server.run()
        seconds = time.monotonic() - started
    finally:
        network.stop()
        site.kill()
        site.wait()
        log.close()
    assert server.num_rounds == 2 and sum(server.engine.num_dropped.values()) == 0
    bits = 8 * (sum(server.sessions.num_bytes.values()) - before)
    assert bits / seconds < 2.2 * rate * 1e6  # both ways
    figures = server.planner.figures["far"]
    for way in ("uplink", "downlink"):
        assert 0.5 * rate < figures[f"{way}_mbit_per_s"] < 1.3 * rate, figures
    if rule[0] == "netem":
        assert 50 <= figures["round_trip_ms"] < 200
