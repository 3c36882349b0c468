"""A server and sites over gRPC: the run of one process, resumed, with sites that come and go."""

import copy
import csv
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.check_data import read_datamodule
from huscf.checkpoint_io import read_checkpoint
from huscf.datamodules import DigitsDataModule
from huscf.deploy import site_run
from huscf.deploy.kits import add_kits
from huscf.deploy.metrics_endpoint import MetricsEndpoint
from huscf.deploy.server_report import read_figures
from huscf.deploy.server_run import Stopped
from huscf.deploy.site_run import SiteRun, seed_of
from huscf.engines.remote import PROTOCOL, Caller
from huscf.errors import CheckpointError, HuscfError
from huscf.provenance import read_provenance
from huscf.wire.frames import Frame, FrameError, pack
from tests.deploy import cases
from tests.deploy.cases import (
    ROSTER,
    Deployment,
    fit,
    make_welcome,
    name_method,
    write_config,
)


@pytest.fixture
def deployment(tmp_path, monkeypatch):
    return Deployment(tmp_path, monkeypatch)


@pytest.fixture(params=["grpc", "nvflare"])
def over_any_wire(request, tmp_path, monkeypatch):
    """What carries frames must not matter."""
    if request.param == "grpc":
        return Deployment(tmp_path, monkeypatch)
    pytest.importorskip("nvflare", reason="needs huscf[nvflare]")
    from tests.deploy.nvflare_cells import NvflareNetwork

    return Deployment(tmp_path, monkeypatch, make_network=NvflareNetwork)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The checkpoint of `huscf fit` with the serial engine."""
    return fit(tmp_path_factory.mktemp("one"))


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def assert_bit_equal(one, other):
    assert one.keys() == other.keys()
    assert [n for n in one if not torch.equal(one[n], other[n])] == []


def test_two_rounds_equal_those_of_huscf_fit(over_any_wire, one_process):
    deployment = over_any_wire
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


def test_prometheus_finds_the_figures_of_a_run(deployment):
    parser = pytest.importorskip("prometheus_client.parser")
    server = deployment.start_server()
    endpoint = MetricsEndpoint(server, 0)
    try:
        sites = [deployment.start_site(name) for name in ROSTER]
        deployment.finish(*sites)
        with urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with pytest.raises(HuscfError, match=r"sites.metrics_port \d+: cannot listen there"):
            MetricsEndpoint(server, endpoint.port)
    finally:
        endpoint.close()
    found = {
        (s.name, *(value for _, value in sorted(s.labels.items()))): s.value
        for family in parser.text_string_to_metric_families(text)
        for s in family.samples
    }
    assert found["huscf_rounds",] == 2 and found["huscf_steps",] == 4
    traffic = read_rows(deployment.folder / "served" / "sites.csv")
    for row in traffic:
        sent = found["huscf_site_bytes_total", "up", row["site"]]
        assert sent >= float(row["uplink_mbytes"]) * 1e6 > 0
        assert found["huscf_site_present", row["site"]] == 0
        assert found["huscf_refused_frames_total", row["site"]] == 0
    assert {key[1] for key in found if key[0] == "huscf_loss"} == {"discriminator", "generator"}


@pytest.mark.parametrize("method", ["FlowMatching", "Vae", "FedGan"])
def test_other_methods_give_what_one_process_gives(method, tmp_path, monkeypatch):
    options = {"model": {"method": name_method(method), "plan": None}}
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one", **options)
    deployment = Deployment(tmp_path, monkeypatch, **options)
    server = deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(*sites)
    assert deployment.errors == []
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    assert server.engine.wire.traffic.state_dict() == one["huscf"]["engine"]["traffic"]


def test_eight_sites_of_four_profiles_equal_one_process_over_a_smaller_wire(tmp_path, monkeypatch):
    """Two rounds, rounded to 8 bits and compressed: no tensor differs."""
    cuts = [[1, 1, 1, 1], [2, 1, 1, 2], [1, 2, 2, 1], [2, 1, 2, 1]]
    plan = {"clients": {client: cuts[client % 4] for client in range(8)}}
    every = {"activations": 8, "gradients": 8}
    model = {
        "plan": {"class_path": "huscf.split.ExplicitPlan", "init_args": plan},
        "wire": {"class_path": "huscf.wire.DefendedWire", "init_args": {"bits": every}},
    }
    options = {"data": {"clients_per_domain": 4}, "model": model}
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one", **options)
    roster = {f"site-{client}": (client,) for client in range(8)}
    deployment = Deployment(tmp_path, monkeypatch, roster, **options)
    server = deployment.start_server("--sites.compression=zstd")
    sites = [deployment.start_site(name) for name in roster]
    deployment.finish(*sites)
    assert deployment.errors == []
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    assert server.engine.wire.traffic.state_dict() == one["huscf"]["engine"]["traffic"]
    assert any("what crosses is changed: bits" in line for line in deployment.lines)


def test_bytes_on_the_wire_are_those_that_are_counted(tmp_path, monkeypatch):
    """Within 1 %, where batches are as large as usual."""
    options = {"data": {"batch_size": 64, "samples_per_client": 80, "image_size": 16}}
    deployment = Deployment(tmp_path, monkeypatch, max_epochs=1, **options)
    wide = [f"--model.method.{network}.width=16" for network in ("generator", "discriminator")]
    server = deployment.start_server(*wide)
    deployment.method = server.method
    sites = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(*sites)
    assert deployment.errors == []
    on_wire = sum(server.sessions.num_bytes.values())
    assert 1.0 < on_wire / server.engine.wire.traffic.total() < 1.01


@pytest.mark.parametrize(
    "data",
    [{"participation": 0.5}, {"first_epochs": {1: 1, 3: 2}, "last_epochs": {2: 0}}],
    ids=["participation", "epochs"],
)
def test_who_rests_in_an_epoch_rests_as_in_one_process(data, tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    options = {"data": {"clients_per_domain": 2, **data}, "max_epochs": 3}
    one = fit(tmp_path / "one", **options)
    deployment = Deployment(tmp_path, monkeypatch, {"a": (0, 2), "b": (1, 3)}, **options)
    server, run = deployment.start_server(), []
    sites = [deployment.start_site(name) for name in deployment.roster]
    assert server._is_set_up.wait(60)
    run_step = server.engine.run_step
    server.engine.run_step = lambda who, step: run.append(tuple(who)) or run_step(who, step)
    deployment.finish(*sites)
    assert deployment.errors == []
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    if "participation" in data:
        assert {len(who) for who in run} == {2} and len({*run}) > 1
        assert run[::2] == run[1::2]  # the same for a whole epoch
    else:
        assert run == [(0, 2)] * 2 + [(0, 1)] * 2 + [(0, 1, 3)] * 2


def test_a_server_that_was_stopped_goes_on_with_the_sites_bit_for_bit(deployment, one_process):
    """It stops after three of four steps: the third is run again, from the first round on."""
    deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    port = deployment.network.port
    saved = deployment.kill_server(3)
    assert saved["huscf"]["server"]["step"] == 2
    deployment.start_server(saved=saved, port=port)
    deployment.finish(*sites)
    assert [str(error) for error in deployment.errors] == ["killed"]
    assert any("the server was started anew" in line for line in deployment.lines)
    assert_bit_equal(one_process["state_dict"], deployment.tensors(*sites))
    assert len(deployment.server.report.rows) == 2


def test_what_steps_have_taught_clients_stays_at_their_sites_and_goes_on(tmp_path, monkeypatch):
    """Strengths of an augmentation that adapts, through a server that is stopped and goes on."""
    method = name_method("HuscfGan")
    adaptive = {"strength": 0.4, "adaptive": True, "target": 0.2, "ramp_samples": 100}
    augmentation = {"class_path": "huscf.methods.DiscriminatorAugmentation", "init_args": adaptive}
    method["init_args"] = {**method["init_args"], "augmentation": augmentation}
    options = {"model": {"method": method}, "max_epochs": 3}
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one", **options)
    deployment = Deployment(tmp_path, monkeypatch, **options)
    deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    port = deployment.network.port
    deployment.start_server(saved=deployment.kill_server(5), port=port)
    deployment.finish(*sites)
    assert [str(error) for error in deployment.errors] == ["killed"]
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    found = {c: site.half.clients[c].remembered for c, site in enumerate(sites)}
    assert found == one["huscf"]["engine"]["remembered"]
    strengths = [found[c]["augmentation_strength"] for c in found]
    assert 0.4 not in strengths


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Figures of `huscf fit` after its two rounds, measured quickly and at last in full."""
    folder = tmp_path_factory.mktemp("evaluated")
    config = write_config(folder / "run.yaml", enable_progress_bar=False)
    options = ["--model.engine", "serial", "--report.enabled", "false"]
    options += ["--training.num_threads=1", "--samples.every_n_rounds=0"]
    before = torch.get_num_threads()
    assert main(["fit", "--config", str(config), *EVALUATED, *options]) == 0
    torch.set_num_threads(before)
    return read_rows(folder / "runs" / "tiny-1" / "metrics.csv")


EVALUATED = [
    "--evaluation.every_n_rounds=1",
    "--evaluation.num_per_class=20",
    "--evaluation.max_time_share=1000",
]


def test_sites_measure_and_draw_what_one_process_would(deployment, evaluated):
    server = deployment.start_server(*EVALUATED)
    sites = [deployment.start_site(name, num_samples=3) for name in ROSTER]
    deployment.finish(*sites)
    assert deployment.errors == []
    rows = read_rows(deployment.folder / "served" / "metrics.csv")
    for site, domain in (("site-a", "digits"), ("site-b", "negatives")):
        for row, wanted in zip(rows, evaluated, strict=True):
            own = {n.removeprefix(f"eval/{site}/"): v for n, v in row.items() if f"/{site}/" in n}
            expected = {
                n.removeprefix(f"eval/{domain}/"): v
                for n, v in wanted.items()
                if f"eval/{domain}/" in n
            }
            assert own.keys() == expected.keys() and own
            for name, value in own.items():
                assert value == expected[name], name
    # The samples are drawn at the site, and nobody else has them.
    for site in sites:
        archive = np.load(site.kept.path / "samples" / "samples.npz")
        assert archive["samples"].shape == (30, 1, 8, 8)
        assert archive["labels"].tolist() == [n for n in range(10) for _ in range(3)]
        assert set(archive["client"].tolist()) == set(site.clients)
    kinds = {key.kind for key in server.engine.wire.traffic.num_bytes}
    assert kinds == {"activations", "gradients", "blocks"}
    with pytest.raises(FrameError, match="nobody was asked to draw"):
        frame = pack({"kind": "draw", "client": 0, "network": "generator", "count": 1})
        server.engine.answer("site-a", Frame(frame))


def test_a_site_refuses_a_method_that_would_send_its_samples(tmp_path):
    """Whatever the server says: it is looked at before anything is made or sent."""
    config = write_config(tmp_path / "run.yaml")
    said = make_welcome(method={"class_path": "huscf.methods.PooledGan", "init_args": {}})
    caller = SimpleNamespace(join=lambda description: said, probe=None)
    site = SiteRun(read_datamodule([config], []), [0, 1], None, tmp_path, caller)
    with pytest.raises(HuscfError, match="PooledGan needs clients to send samples, labels or"):
        site.run()


def test_a_newer_process_takes_over_and_the_older_ends_with_one_line(deployment):
    """While the run is set up, and while it goes on."""
    server = deployment.start_server("--trainer.max_epochs=8", "--sites.step_timeout_s=1")
    first = deployment.start_site("site-a")
    assert server.sessions.wait_for(lambda: "site-a" in server.roll.joined, 60)
    second = deployment.start_site("site-a")
    first.thread.join(60)
    assert not first.thread.is_alive() and second.thread.is_alive()
    other = deployment.start_site("site-b")
    assert server.sessions.wait_for(lambda: len(server.have_saved) == 2, 60)
    third = deployment.start_site("site-a")
    deployment.finish(first, second, third, other)
    ends = [str(error) for error in deployment.errors]
    assert ends == ["another process has joined under this site's name; this one ends"] * 2
    assert not any("no connection" in line for line in deployment.lines)
    assert server.sessions.refused.total() == 0 and server.step == 16


def test_a_site_that_dies_while_it_measures_is_not_waited_for(deployment, monkeypatch):
    def measure(sampler, own, *others):
        if 1 in sampler.half.clients:
            dying.exchange.close()
            raise RuntimeError("killed")
        return [{"score": 1.0}]

    monkeypatch.setattr(site_run, "evaluate_site", measure)
    options = ["--evaluation.every_n_rounds=0", "--sites.step_timeout_s=1"]
    server = deployment.start_server(*options)
    first, dying = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(first)
    assert [str(error) for error in deployment.errors] == ["killed"]
    rows = read_rows(deployment.folder / "served" / "metrics.csv")
    assert rows[1]["eval/site-a/score"] == "1.0" and "eval/site-b/score" not in rows[1]
    assert server.num_rounds == 2
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    assert saved["huscf"]["server"]["step"] == 4


def test_figures_that_are_none_do_not_come_into_the_table():
    answer = {"figures": [{"score": 1.5, "a,b": 2.0, "=x": 1.0, "deep": [1]}, {"score": 2}, 7]}
    assert read_figures("a", answer) == {"eval/a/score": 1.5, "eval/a-2/score": 2.0}
    for none in ({}, {"figures": 3}, {"figures": [None]}):
        assert read_figures("a", none) == {}


def test_a_site_that_comes_later_joins_the_run_that_goes_on(deployment):
    deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(*sites)
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    deployment.roster = add_kits(deployment.kit, ["site-c"])
    assert deployment.roster == {**ROSTER, "site-c": (2,)}
    server = deployment.start_server("--trainer.max_epochs", "4", saved=saved)
    assert server.newcomers == ["site-c"]
    back = [deployment.start_site(name) for name in ROSTER]
    # Nothing begins before the new site has said how much data it has.
    assert not server._is_set_up.wait(0.5)
    new = deployment.start_site("site-c", chosen=(0,))
    deployment.finish(*back, new)
    assert deployment.errors == []
    assert any("run stands at step 4, here its beginning" in n for n in deployment.lines)
    placed = read_rows(deployment.folder / "served" / "federation.csv")
    assert [row["client"] for row in placed] == ["0", "1"] * 2 + ["0", "1", "2"] * 2
    assert all(float(row["weight"]) > 0 for row in placed if row["round"] == "4")
    # All three have the one cluster's average.
    averages = [site.half.get_state()["state_dict"] for site in (*back, new)]
    tail = [
        {n.split(".", 3)[3]: t for n, t in own.items() if ".trained.generator_tail." in n}
        for own in averages
    ]
    common = set.intersection(*map(set, tail)) - {
        n for n in tail[0] if n.endswith("num_batches_tracked")
    }
    assert common
    for name in common:
        assert torch.equal(tail[0][name], tail[2][name]), name
    # From then on it is one of them: nobody is new when the server goes on once more.
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    assert list(saved["huscf"]["server"]["roster"]) == ["site-a", "site-b", "site-c"]
    deployment.roster = {"site-a": (0,), "site-c": (1,)}
    with pytest.raises(CheckpointError, match="there site-b has clients"):
        deployment.start_server(saved=saved)


def finish_with_two(deployment):
    """Train two sites to their end; the server's half."""
    deployment.start_server()
    deployment.finish(*[deployment.start_site(name) for name in ROSTER])
    deployment.roster = add_kits(deployment.kit, ["site-c"])
    return read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")


def test_a_new_site_with_more_classes_is_refused_and_changes_nothing(deployment):
    server = deployment.start_server("--trainer.max_epochs=4", saved=finish_with_two(deployment))
    joining = {
        "protocol": PROTOCOL,
        "version": "x",
        "clients": [[40, 8]],
        "shape": [1, 8, 12],
        "device": None,
    }
    with pytest.raises(HuscfError, match="it has 12 classes, the run 10"):
        server._welcome("site-c", joining)
    assert server.shape.num_classes == 10 and not server.roll.joined
    sites = [deployment.start_site(name) for name in ROSTER]
    sites.append(deployment.start_site("site-c", chosen=(0,)))
    deployment.finish(*sites)
    assert deployment.errors == [] and server.num_rounds == 4


def test_an_epoch_stays_as_long_as_it_was_when_a_site_with_more_data_joins(deployment):
    saved = finish_with_two(deployment)
    assert saved["huscf"]["server"]["steps_per_epoch"] == 2
    config = yaml.safe_load(deployment.config.read_text())
    del config["data"]["init_args"]["steps_per_epoch"]
    deployment.config.write_text(yaml.safe_dump(config))
    server = deployment.start_server("--trainer.max_epochs=4", saved=saved)
    sites = [deployment.start_site(name) for name in (*ROSTER,)]
    sites.append(deployment.start_site("site-c", chosen=(0,)))
    deployment.finish(*sites)
    rows = read_rows(deployment.folder / "served" / "metrics.csv")
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"] and server.steps_per_epoch == 2


def test_a_site_that_has_saved_nothing_begins_and_one_that_has_needs_its_half(deployment):
    server = deployment.start_server("--trainer.max_epochs=4", saved=finish_with_two(deployment))
    sites = [deployment.start_site(name) for name in ROSTER]
    sites.append(deployment.start_site("site-c", chosen=(0,)))
    deployment.finish(*sites)
    assert server.have_saved == {"site-a", "site-b", "site-c"}
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    shutil.rmtree(deployment.folder / "site-c")
    # It was killed before its first save: it begins, as it would have with the server running on.
    saved["huscf"]["server"]["have_saved"] = ["site-a", "site-b"]
    deployment.start_server("--trainer.max_epochs=5", saved=copy.deepcopy(saved))
    sites = [deployment.start_site(name) for name in ROSTER]
    sites.append(deployment.start_site("site-c", chosen=(0,)))
    deployment.finish(*sites)
    assert deployment.errors == [] and deployment.server.num_rounds == 5
    # One that has saved and lost it may not begin anew without a word.
    shutil.rmtree(deployment.folder / "site-c")
    saved["huscf"]["server"]["have_saved"] = sorted(deployment.roster)
    options = ["--trainer.max_epochs=5", "--sites.wait_timeout_s=1", "--sites.min_clients=3"]
    deployment.start_server(*options, saved=saved)
    site = deployment.start_site("site-c", chosen=(0,))
    deployment.finish(site)
    assert any("has no half of this site" in str(error) for error in deployment.errors)


def test_a_half_that_lacks_a_tensor_is_refused_before_anything_is_written(deployment):
    saved = finish_with_two(deployment)
    del deployment.roster["site-c"]
    name = next(n for n in saved["state_dict"] if ".server.trained.generator." in n)
    del saved["state_dict"][name]
    (deployment.folder / "served" / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"server\.trained\.generator.* is none"):
        deployment.start_server(saved=saved)
    assert not (deployment.folder / "served" / "config.yaml").exists()


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
    dying.thread.join(60)
    assert server.sessions.wait_for(lambda: "site-b" not in server.sessions.present(), 60)
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


def test_a_secret_draws_other_noise_for_each_client_and_none_gives_the_runs():
    secret = "0f" * 32
    assert len({seed_of(secret, 0, 0), seed_of(secret, 1, 0), seed_of(secret, 0, 1), 0}) == 4
    assert seed_of(None, 3, 7) == 7


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
    assert deployment.server.sessions.wait_for(lambda: len(deployment.server.roll.joined) == 1, 60)
    monkeypatch.setattr(cases, "read_datamodule", lambda c, o: read_datamodule(c, data))
    second = deployment.start_site("site-b", chosen=(0, 1) if "clients" in data[0] else None)
    second.thread.join(60)
    (error,) = deployment.errors
    assert "the server refused 'join'" in str(error)
    assert re.search(reason, str(error))
    deployment.server.sessions.close("over")
    first.thread.join(60)
    deployment.network.stop()


def test_a_site_without_a_class_trains_the_others_under_the_numbers_of_all(tmp_path):
    class WithoutThree(DigitsDataModule):
        def load_domains(self):
            for domain in super().load_domains():
                kept = domain.train_labels != 3
                labels, samples = domain.train_labels[kept], domain.train_samples[kept]
                yield replace(domain, train_labels=labels, train_samples=samples)

    data = WithoutThree(clients_per_domain=1, on_bad_data="skip")
    with pytest.warns(UserWarning, match="no training sample") as notes:
        site = SiteRun(data, None, None, tmp_path, Caller(lambda frame: frame))
    assert "no training sample has class 3: other sites may have some" in str(notes[-1].message)
    assert site._describe()["shape"] == [1, 8, 10]
    assert site._own[0].domain.train_labels.unique().tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
