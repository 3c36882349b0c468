"""Over NVFlare: who may ask, what is no frame, and a whole job in its simulator."""

import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.checkpoint_io import read_checkpoint
from huscf.deploy import exchange as patience
from huscf.deploy.grpc_wire import GrpcExchange, GrpcServer
from huscf.deploy.kits import Tls
from huscf.engines.remote import Sessions
from huscf.errors import HuscfError
from huscf.wire.frames import Frame, pack
from tests.deploy.cases import fit, write_config

pytest.importorskip("nvflare", reason="needs huscf[nvflare]")
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.message import Message

from huscf.deploy import nvflare_parts, nvflare_wire
from huscf.deploy.halves import Folder
from huscf.deploy.nvflare_parts import ServerPart
from huscf.deploy.nvflare_wire import CHANNEL, TOPIC
from tests.deploy.nvflare_cells import NvflareNetwork


class Answers:
    """Sessions that note whose frames they are given, and answer once they may."""

    def __init__(self):
        self.roster, self.seen, self.go = {"a": (0,), "b": (1,)}, [], threading.Event()
        self.go.set()

    def connect(self, name):
        pass

    def handle(self, name, data):
        self.seen.append((name, data))
        assert self.go.wait(60)
        return b"answer to " + data


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(patience, "BACKOFF_S", (0.05, 0.1))
    made = NvflareNetwork(Answers())
    yield made
    made.stop()


def send(network, name, payload):
    """Return the code of what is answered, and what comes with it."""
    cell = network.cells[name].core_cell
    reply = cell.send_request(CHANNEL, TOPIC, "server", Message({}, payload), timeout=10)
    return reply.get_header(MessageHeaderKey.RETURN_CODE), reply.payload


def test_a_site_is_known_by_its_cell_and_a_stranger_is_not_heard(network):
    assert network.dial("a")(b"1") == b"answer to 1"
    assert network.dial("b")(b"2") == b"answer to 2"
    network.cells["stranger"] = network.start("stranger")
    assert send(network, "stranger", b"3") == ("unauthenticated", None)
    assert network.sessions.seen == [("a", b"1"), ("b", b"2")]


def test_what_is_not_bytes_or_is_too_large_is_no_frame(network, monkeypatch):
    monkeypatch.setattr(nvflare_wire, "MAX_FRAME", 8)
    for payload in ({"kind": "join"}, ["x"], None, b"123456789"):
        assert send(network, "a", payload) == ("invalid_request", None)
    assert network.sessions.seen == []
    assert send(network, "a", b"12345678")[0] == "ok"


def test_one_site_cannot_keep_all_threads_of_the_server(network):
    network.sessions.go.clear()
    waiting = [threading.Thread(target=send, args=(network, "a", b"%d" % n)) for n in range(2)]
    for thread in waiting:
        thread.start()
    while len(network.sessions.seen) < 2:
        threading.Event().wait(0.01)
    assert send(network, "a", b"more") == ("service_unavailable", None)
    network.sessions.go.set()
    for thread in waiting:
        thread.join(60)
    assert send(network, "a", b"more") == ("ok", b"answer to more")


def test_frames_are_checked_as_over_grpc():
    sessions = Sessions({"a": (0,)}, lambda *_: None, lambda *_: None)
    network = NvflareNetwork(sessions)
    try:
        dial = network.dial("a")
        for data in (b"", b"\xff" * 100, pack({"kind": "anything"})):
            assert Frame(dial(data)).header["kind"] == "refused"
        assert sessions.refused == {"a": 3} and sessions.num_bytes["a", "up"] > 100
    finally:
        network.stop()


def test_a_frame_is_sent_again_until_it_is_answered_or_patience_ends(network, monkeypatch):
    lines, handle = [], network.sessions.handle
    fail = iter([True, True, False])

    def answer(name, data):
        if next(fail):
            raise RuntimeError("broken")
        return handle(name, data)

    monkeypatch.setattr(network.sessions, "handle", answer)
    assert network.dial("a", lines.append)(b"1") == b"answer to 1"
    assert len(lines) == 2 and all(line.startswith("no connection (NVFlare says") for line in lines)
    gone = network.dial("a", lines.append)
    gone._target, gone.patience_s = "nowhere", 0.2
    with pytest.raises(HuscfError, match=r"the job.s cell .* cannot be reached: NVFlare says"):
        gone(b"2")


def test_a_job_that_nvflare_has_ended_asks_no_more(network):
    with pytest.raises(HuscfError, match="NVFlare has ended the job"):
        network.dial("a", is_aborted=lambda: True)(b"1")
    assert network.sessions.seen == []


PROJECT = {
    "api_version": 3,
    "name": "tried",
    "participants": [
        {"name": "localhost", "type": "server", "org": "x", "fed_learn_port": 1, "admin_port": 2},
        {"name": "a", "type": "client", "org": "x"},
        {"name": "admin@x.org", "type": "admin", "org": "x", "role": "project_admin"},
    ],
    "builders": [
        {"path": f"nvflare.lighter.impl.{path}"}
        for path in ("workspace.WorkspaceBuilder", "cert.CertBuilder")
    ],
}


def test_kits_that_nvflare_has_provisioned_let_its_sites_in_over_grpc(tmp_path):
    (tmp_path / "project.yml").write_text(yaml.safe_dump(PROJECT))
    command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", "project.yml"]
    subprocess.run([*command, "-w", "ws", "--force"], check=True, capture_output=True, cwd=tmp_path)
    kits = tmp_path / "ws" / "tried" / "prod_00"
    tls = {name.name: Tls.read(name / "startup") for name in kits.iterdir()}
    sessions = Sessions({"a": (0,)}, lambda *_: None, lambda *_: None)
    server = GrpcServer(sessions, tls["localhost"], "127.0.0.1:0")
    try:
        site = GrpcExchange(f"localhost:{server.port}", tls["a"], 5.0)
        assert Frame(site(b"none")).header["kind"] == "refused"  # by the roster, it was heard
        site.close()
        administrator = GrpcExchange(f"localhost:{server.port}", tls["admin@x.org"], 5.0)
        with pytest.raises(HuscfError, match="not in the roster"):
            administrator(b"none")
    finally:
        server.stop(0)


def returned(name, code, reason=None):
    result = SimpleNamespace(get_return_code=lambda: code, get_header=lambda key: reason)
    return SimpleNamespace(client=SimpleNamespace(name=name), result=result)


def test_a_site_that_cannot_join_ends_the_job_and_one_that_is_lost_later_does_not():
    said, left, closed = [], [], []
    part = ServerPart({"a": [0], "b": [1]})
    part._run = SimpleNamespace(
        sessions=SimpleNamespace(disconnect=left.append, close=closed.append),
        roll=SimpleNamespace(joined={"a": {}}),
        say=said.append,
    )
    part._note_result(returned("a", "EXECUTION_EXCEPTION", "disk is full\x1b[2J"), None)
    assert (said, left, closed, part._fault) == (["a: disk is full\\x1b[2J"], ["a"], [], "")
    part._note_result(returned("b", "OK"), None)
    assert part._fault == ""
    part._note_result(returned("b", "EXECUTION_EXCEPTION", "no local/b.yaml"), None)
    assert closed == [part._fault] == ["b could not join: no local/b.yaml"]


def test_a_run_that_has_ended_waits_no_longer_for_a_site_that_is_lost(monkeypatch):
    monkeypatch.setattr(nvflare_parts, "_END_S", 0.05)
    cancelled, has_cancelled = [], threading.Event()
    part = ServerPart({"a": [0], "b": [1]})
    part.cancel_task = lambda task: (cancelled.append(task), has_cancelled.set())
    run = SimpleNamespace(config=SimpleNamespace(num_threads=None), run=lambda: None)
    part._lead(run, "task")
    assert has_cancelled.wait(60) and (cancelled, part._fault) == (["task"], "")


def test_an_ended_job_says_where_it_stood_and_what_is_kept(tmp_path):
    run = SimpleNamespace(step=7, folder=tmp_path)
    assert nvflare_parts.describe_end(run).endswith("died; nothing is saved")
    Folder(tmp_path / "checkpoints").write(6, {"huscf": {}}, last=True)
    line = nvflare_parts.describe_end(run)
    assert line.startswith("NVFlare has ended the job at step 7") and line.endswith(
        "step 6 is saved"
    )


def test_a_job_in_the_simulator_equals_one_process(tmp_path, monkeypatch):
    """The processes and the network that a try has: 0 of all tensors differ."""
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(write_config(tmp_path / "run.yaml").read_text())
    local = tmp_path / "work" / "local"
    local.mkdir(parents=True)
    allowed = {"class_allow_list": ["huscf.deploy.nvflare_parts."]}
    (local / "resources.json").write_text(json.dumps(allowed))
    for name, client in (("a", 0), ("b", 1)):
        join = {"clients": [client], "secret": False, "num_threads": 1}
        (local / f"{name}.yaml").write_text(yaml.safe_dump({"data": values["data"], "join": join}))
    options = ["--sites", "a", "b", "--output", "job"]
    options += ["--training.num_threads=1", "--report.enabled=false"]
    assert main(["nvflare", "--config", "run.yaml", *options]) == 0
    simulator = [sys.executable, "-m", "nvflare.cli", "simulator", "job"]
    done = subprocess.run(
        [*simulator, "-w", "work", "-c", "a,b", "-t", "2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    folder = tmp_path / "work" / "server" / "simulate_job" / "huscf"
    assert "2 rounds, 4 steps" in (folder / "server.log").read_text(), done.stdout[-3000:]
    halves = [folder / "checkpoints" / "last.ckpt"]
    halves += [next(tmp_path.glob(f"work/{n}/huscf/*/step-000000004.ckpt")) for n in ("a", "b")]
    found = {}
    for half in halves:
        found |= read_checkpoint(half)["state_dict"]
    assert found.keys() == one["state_dict"].keys()
    assert [n for n, t in one["state_dict"].items() if not torch.equal(t, found[n])] == []
    assert "Traceback" not in done.stdout + done.stderr
