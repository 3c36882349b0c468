"""Cuts for the devices that sites have, and other cuts when these have changed."""

import pytest
import yaml

from huscf.checkpoint_io import read_checkpoint
from huscf.deploy import site_device, site_planner
from huscf.deploy.run_config import read_run_config
from huscf.deploy.site_device import SiteDevice, measure_link
from huscf.errors import HuscfError
from huscf.planning import SearchedPlan
from huscf.split import CutPlan
from tests.deploy.cases import ROSTER, Deployment, write_config
from tests.deploy.test_runs import read_rows

PLAN = {"plan": {"class_path": "huscf.planning.SearchedPlan"}}
FAST = {"speed_gflops": 50, "uplink_mbit_per_s": 1000, "downlink_mbit_per_s": 1000}
SLOW = {**FAST, "speed_gflops": 0.01}


@pytest.fixture
def deployment(tmp_path, monkeypatch):
    monkeypatch.setattr(site_planner, "calibrate_profile", lambda up, down: {"speed_gflops": 100.0})
    found = Deployment(tmp_path, monkeypatch, model=PLAN, max_epochs=3)
    values = yaml.safe_load(found.config.read_text())
    values["replanning"] = {"every_n_rounds": 1}
    found.config.write_text(yaml.safe_dump(values))
    return found


def count_held(plan, client):
    return sum(plan.by_client[client].cuts.as_list())


def test_a_device_that_becomes_slow_gives_its_blocks_to_the_server(deployment):
    server = deployment.start_server()
    sites = [deployment.start_site(name, device=SiteDevice(FAST)) for name in ROSTER]
    assert server._is_set_up.wait(60)
    first = server.engine.plan
    sites[1].device = SiteDevice(SLOW)
    deployment.finish(*sites)
    assert deployment.errors == []
    last = server.engine.plan
    assert count_held(last, 1) < count_held(first, 1) and last.by_client[0] == first.by_client[0]
    folder = deployment.folder / "served"
    rows = read_rows(folder / "metrics.csv")
    moved = [float(row["plan/moved_mbytes"]) for row in rows]
    assert moved[0] > 0 and moved[1:] == [0, 0]
    assert all(float(row["plan/latency_s"]) > 0 for row in rows)
    assert CutPlan.load(folder / "plan.yaml") == first
    assert CutPlan.load(folder / "plan-round-0001.yaml") == last
    listed = yaml.safe_load((folder / "plan-round-0001.yaml").read_text())["moved"]
    assert {move["direction"] for move in listed} == {"uplink"}
    assert sum(move["num_bytes"] for move in listed) == pytest.approx(moved[0] * 1e6)
    # Bytes that the traffic counter has of it are those of the table.
    sent = server.engine.wire.traffic.total(kinds=["moved_blocks"])
    assert sent == pytest.approx(moved[0] * 1e6)
    # Everybody goes on from there.
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert saved["huscf"]["server"]["devices"] == {"site-a": FAST, "site-b": SLOW}
    server = deployment.start_server("--trainer.max_epochs=4", saved=saved)
    devices = {"site-a": SiteDevice(FAST), "site-b": SiteDevice(SLOW)}
    back = [deployment.start_site(name, device=device) for name, device in devices.items()]
    deployment.finish(*back)
    assert deployment.errors == [] and server.num_rounds == 4
    assert server.engine.plan == last


def test_a_site_that_was_killed_before_it_saved_its_new_blocks_gets_them_again(deployment):
    """Blocks come to it; it dies before it has saved, and returns to its half of before."""
    options = ["--sites.step_timeout_s=1", "--sites.min_clients=1", "--trainer.max_epochs=30"]
    server = deployment.start_server(*options)
    first = deployment.start_site("site-a", device=SiteDevice(FAST))
    dying = deployment.start_site("site-b", device=SiteDevice(SLOW))
    assert server._is_set_up.wait(60)
    few = server.engine.plan
    do, dead = dying._do, []

    def do_or_die(command):
        if command["kind"] == "measure" and server.num_rounds == 2:
            dying.device = SiteDevice(FAST)
        cuts = dying.half.plan.by_client[1].cuts
        if command["kind"] == "save" and cuts != few.by_client[1].cuts:
            dead.append(command["step"])
            dying.exchange.close()
            raise RuntimeError("killed")
        return do(command)

    dying._do = do_or_die
    dying.thread.join(60)
    assert dead and [str(e) for e in deployment.errors] == ["killed"]
    assert server.sessions.wait_for(lambda: "site-b" not in server.sessions.present(), 60)
    assert {ref.client_id for ref in server.engine.blocks.owed} == {1}
    assert dying.kept.steps()[-1] < dead[0]
    back = deployment.start_site("site-b", device=SiteDevice(FAST))
    deployment.finish(first, back)
    assert [str(e) for e in deployment.errors] == ["killed"]
    assert count_held(server.engine.plan, 1) > count_held(few, 1)
    assert not server.engine.blocks.owed
    assert back.half.plan.by_client[1].cuts == server.engine.plan.by_client[1].cuts
    assert back.num_steps > 0 and server.engine.num_dropped[1] <= 1


def test_without_devices_a_site_is_told_what_to_give(deployment):
    deployment.start_server()
    site = deployment.start_site("site-a")
    site.thread.join(60)
    (error,) = deployment.errors
    assert "start this site with --calibrate, or give speed_gflops, uplink_mbit" in str(error)
    deployment.server.sessions.close("over")
    deployment.network.stop()


def test_clients_of_one_site_share_its_machine_and_link():
    config = read_run_config([])
    planner = site_planner.SitePlanner(SearchedPlan(), config.replanning, {"a": (0, 1), "b": (2,)})
    planner._server = site_planner.ServerProfile(1e9, 0.0, 0.0)
    planner.note("a", {**FAST, "memory_mib": 64, "round_trip_ms": 20})
    planner.note("b", FAST)
    fleet = planner._make_fleet({0: 4, 1: 8, 2: 16}, 0)
    each = [c.profile for c in fleet.clients]
    assert [p.speed_flops_per_s for p in each] == [25e9, 25e9, 50e9]
    assert [p.uplink_bits_per_s for p in each] == [5e8, 5e8, 1e9]
    assert each[0].memory_bytes == 32 * 2**20 and each[0].round_trip_s == 0.02
    assert [c.batch_size for c in fleet.clients] == [4, 8, 16]
    assert fleet.server.uplink_bits_per_s == 2e9


def test_a_link_is_measured_by_the_time_that_frames_take():
    """Of 8 Mbit/s up, 80 down, 50 ms there and back."""
    sent = []

    def probe(up, down):
        sent.append((up, down))
        return 0.05 + up / 1e6 + down / 1e7

    figures = measure_link(probe)
    assert figures == {
        "uplink_mbit_per_s": 8.0,
        "downlink_mbit_per_s": 80.0,
        "round_trip_ms": 50.0,
    }
    assert max(up + down for up, down in sent) <= 4 << 20


def test_what_is_given_is_not_measured(monkeypatch):
    figures = {"speed_gflops": 3.0, "memory_mib": 100}
    monkeypatch.setattr(site_device, "calibrate_profile", lambda up, down: dict(figures))
    link = {"uplink_mbit_per_s": 4.0, "downlink_mbit_per_s": 5.0, "round_trip_ms": 6.0}
    monkeypatch.setattr(site_device, "measure_link", lambda probe: dict(link))
    assert SiteDevice({"speed_gflops": 9}, True).describe(None) == {
        **{**figures, **link},
        "speed_gflops": 9,
    }
    assert SiteDevice({"speed_gflops": 9}).describe(None) is None
    assert SiteDevice(FAST).describe(None) == FAST


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ({"speed_gflop": 1}, "unknown key speed_gflop"),
        ({"uplink_mbit_per_s": 0}, "uplink_mbit_per_s is 0, must be a number > 0"),
        (7, "device: a mapping such as"),
    ],
)
def test_a_device_that_is_none_is_refused_by_name(tmp_path, device, reason):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"device": device}))
    with pytest.raises(HuscfError, match=reason):
        SiteDevice.read([path], False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--replanning.every_n_rounds=1"], "only a searched plan knows devices"),
        (["--model.plan=huscf.planning.SearchedPlan", "--replanning.drift=d.yaml"], "drift"),
    ],
)
def test_replanning_that_cannot_be_is_refused(tmp_path, options, reason):
    (tmp_path / "d.yaml").write_text("events: []")
    config = write_config(tmp_path / "run.yaml")
    options = [o.replace("d.yaml", str(tmp_path / "d.yaml")) for o in options]
    with pytest.raises(HuscfError, match=reason):
        read_run_config(["--config", str(config), *options])
