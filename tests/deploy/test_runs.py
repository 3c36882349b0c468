"""A server and sites over gRPC: the run of one process, resumed, with sites that come and go."""

import csv
import re
import threading

import pytest
import torch

from huscf.__main__ import main
from huscf.callbacks import Evaluation, SampleGrid
from huscf.check_data import read_datamodule
from huscf.checkpoint_io import read_checkpoint
from huscf.deploy.kits import Tls
from huscf.deploy.server_run import Stopped
from huscf.provenance import read_provenance
from tests.deploy import cases
from tests.deploy.cases import ROSTER, Deployment, write_config


@pytest.fixture
def deployment(tmp_path, monkeypatch):
    return Deployment(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The checkpoint of `huscf fit` with the serial engine."""
    folder = tmp_path_factory.mktemp("one")
    config = write_config(folder / "run.yaml", enable_progress_bar=False)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(Evaluation, "on_round_end", lambda *_: None)
    monkeypatch.setattr(SampleGrid, "on_round_end", lambda *_: None)
    options = ["--model.engine", "serial", "--report.enabled", "false"]
    before = torch.get_num_threads()
    assert main(["fit", "--config", str(config), "--training.num_threads=1", *options]) == 0
    torch.set_num_threads(before)
    monkeypatch.undo()
    return read_checkpoint(folder / "runs" / "tiny-1" / "checkpoints" / "last.ckpt")


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def assert_bit_equal(one, other):
    assert one.keys() == other.keys()
    assert [n for n in one if not torch.equal(one[n], other[n])] == []


def test_two_rounds_equal_those_of_huscf_fit(deployment, one_process):
    server = deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(*sites)
    assert deployment.errors == []
    assert_bit_equal(one_process["state_dict"], deployment.tensors(*sites))
    engine = one_process["huscf"]["engine"]
    assert server.engine.wire.traffic.state_dict() == engine["traffic"]
    assert server.engine.clusters == engine["clusters"]
    folder = deployment.folder / "served"
    assert [start["from_round"] for start in read_provenance(folder)] == ["0"]
    rows = read_rows(folder / "metrics.csv")
    assert [row["step"] for row in rows] == ["2", "4"]
    placed = read_rows(folder / "federation.csv")
    assert [(r["round"], r["client"], r["domain"]) for r in placed] == [
        *(("1", "0", "site-a"), ("1", "1", "site-b")),
        *(("2", "0", "site-a"), ("2", "1", "site-b")),
    ]
    # Bytes on the wire are those that are counted, but for headers, which tiny tensors show.
    traffic = read_rows(folder / "sites.csv")
    on_wire = sum(float(r["uplink_mbytes"]) + float(r["downlink_mbytes"]) for r in traffic)
    assert 1.0 < on_wire * 1e6 / server.engine.wire.traffic.total() < 1.35
    # Each half lies where it lives.
    own = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(name.startswith("parties.server.") for name in own)
    for site, number in zip(sites, (0, 1), strict=True):
        assert site.kept.steps() == [2, 4]
        half = site.kept.read(4)["state_dict"]
        assert all(name.startswith(f"parties.clients.{number}.") for name in half)


def test_a_server_that_was_stopped_goes_on_with_the_sites_bit_for_bit(deployment, one_process):
    """It stops after three of four steps: the third is run again, from the first round on."""
    server = deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    run_step, killed = None, threading.Event()

    def die(present, step):
        if step == 3:
            server.sessions.close = lambda *_: None
            killed.set()
            raise RuntimeError("killed")
        return run_step(present, step)

    assert server._is_set_up.wait(30)
    run_step, server.engine.run_step = server.engine.run_step, die
    assert killed.wait(30)
    port = deployment.network.port
    deployment.network.stop(0)
    deployment.leader.join(20)
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    assert saved["huscf"]["server"]["step"] == 2
    deployment.start_server(saved=saved, port=port)
    deployment.finish(*sites)
    assert [str(error) for error in deployment.errors] == ["killed"]
    assert any("the server was started anew" in line for line in deployment.lines)
    assert_bit_equal(one_process["state_dict"], deployment.tensors(*sites))
    assert len(deployment.server.rows) == 2


def test_a_site_that_dies_is_left_out_and_returns_with_its_half(deployment):
    options = (
        "--trainer.max_epochs",
        "20",
        "--sites.step_timeout_s",
        "1",
        "--sites.min_clients",
        "1",
    )
    server = deployment.start_server(*options)
    sites = [deployment.start_site(name) for name in ROSTER]
    dying = sites[1]
    while server.num_rounds < 2:
        server.sessions.wait_for(lambda: False, 0.02)
    dying.caller._exchange = None  # it asks no more
    dying.exchange.close()
    dying.thread.join(10)
    assert server.sessions.wait_for(lambda: "site-b" not in server.sessions.present(), 10)
    before = server.step
    assert server.sessions.wait_for(lambda: server.step > before + 2, 10) or server.step > before
    back = deployment.start_site("site-b")
    deployment.finish(sites[0], back)
    assert server.num_rounds == 20 and server.step == 40
    assert server.engine.num_dropped[0] == 0 and server.engine.num_dropped[1] <= 1
    assert 0 < dying.num_steps < dying.num_steps + back.num_steps < 40
    (line,) = [n for n in deployment.lines if "here its half of step" in n]
    assert "joined: clients 1" in line


def test_with_too_few_clients_the_server_saves_and_stops_with_one_line(deployment):
    server = deployment.start_server(
        "--trainer.max_epochs",
        "500",
        "--sites.step_timeout_s",
        "0.5",
        "--sites.wait_timeout_s",
        "0.5",
    )
    sites = [deployment.start_site(name) for name in ROSTER]
    while server.num_rounds < 1:
        server.sessions.wait_for(lambda: False, 0.02)
    sites[1].caller._exchange = None
    sites[1].exchange.close()
    deployment.finish(*sites)
    (error,) = [e for e in deployment.errors if isinstance(e, Stopped)]
    assert "too few clients for 0.5 s: the run is saved at step" in str(error)
    assert "\n" not in str(error)
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    assert saved["huscf"]["server"]["step"] == server.step
    assert sites[0].kept.steps()[-1] == server.step


def test_a_secret_draws_other_noise_for_each_client_and_none_gives_the_runs(tmp_path):
    tls = Tls(b"", b"", b"", "a", "0f" * 32)
    assert len({tls.seed_of(0, 0), tls.seed_of(1, 0), tls.seed_of(0, 1), 0}) == 4
    assert Tls(b"", b"", b"", "a").seed_of(3, 7) == 7


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (["--data.clients_per_domain", "2"], "data of 2 clients, the roster 1"),
        (["--data.image_size", "16"], "8 pixels a side|16 pixels a side"),
    ],
)
def test_a_site_that_does_not_fit_is_told_why(deployment, data, reason, monkeypatch):
    deployment.start_server()
    first = deployment.start_site("site-a")
    assert deployment.server.sessions.wait_for(lambda: len(deployment.server._joined) == 1, 20)
    monkeypatch.setattr(cases, "read_datamodule", lambda c, o: read_datamodule(c, data))
    chosen = {"site-b": (0, 1)} if "clients" in data[0] else ROSTER
    monkeypatch.setattr(cases, "ROSTER", {**ROSTER, **chosen})
    second = deployment.start_site("site-b")
    second.thread.join(20)
    (error,) = deployment.errors
    assert "the server refused 'join'" in str(error)
    assert re.search(reason, str(error))
    deployment.server.sessions.close("over")
    first.thread.join(10)
    deployment.network.stop()
