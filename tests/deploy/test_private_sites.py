"""Differential privacy of records at sites: the run of one process, counted at both ends."""

import json
import re

import pytest
import torch

from huscf.checkpoint_io import read_checkpoint
from huscf.deploy.ledger import Ledger
from huscf.deploy.run_config import read_run_config
from huscf.deploy.site_privacy import check_sampling, read_privacy
from huscf.engines import DifferentialPrivacy
from huscf.engines.private.budget import RecordBudget
from huscf.errors import CheckpointError, HuscfError
from tests.deploy.cases import ROSTER, Deployment, fit, write_config
from tests.deploy.private_cases import draw_as_one_process, make_private, refuse, run
from tests.deploy.test_runs import assert_bit_equal, read_rows

pytest.importorskip("dp_accounting", reason="an extra")


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("method", ["HuscfGan", "FlowMatching", "Vae", "FedGan"])
def test_a_private_run_of_sites_is_that_of_one_process(method, noise, tmp_path, monkeypatch):
    """Clipping, noise, batches and what is counted; of noise only where both draw by one seed."""
    options = make_private(method, noise)
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one", **options)
    draw_as_one_process(monkeypatch)
    deployment = Deployment(tmp_path, monkeypatch, **options)
    server, sites = run(deployment)
    assert deployment.errors == []
    silent = [line for line in deployment.lines if "without noise there is no epsilon" in line]
    assert bool(silent) == (not noise)
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    known = one["huscf"]["engine"]
    assert server.engine.wire.traffic.state_dict() == known["traffic"]
    norms = [key for key in server.engine.wire.traffic.num_bytes if key.kind == "norms"]
    assert len(norms) == (0 if method == "FedGan" else 4)
    assert server.engine.budget.get_state()["private_steps"] == known["private_steps"]
    assert server.engine.budget.num_steps == {0: 4, 1: 4}
    columns = ("privacy/epsilon", "privacy/delta")
    rows = read_rows(deployment.folder / "served" / "metrics.csv")
    wanted = read_rows(tmp_path / "one" / "runs" / "tiny-1" / "metrics.csv")
    for name in columns:
        assert [row.get(name) for row in rows] == [row.get(name) for row in wanted]
    if noise:
        epsilon = float(rows[-1]["privacy/epsilon"])
        assert epsilon > float(rows[0]["privacy/epsilon"]) > 0
        said = f"privacy: epsilon {epsilon:.3f} at delta 0.001 after 4 steps of its own count"
        assert sum(said in line for line in deployment.lines) == 2
        assert any(f"epsilon {epsilon:.3f} at delta 0.001" in n for n in deployment.lines)


def test_noise_and_batches_are_each_party_s_own_and_no_seed_gives_them(tmp_path, monkeypatch):
    options = make_private(noise=1.0)
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one", **options)["state_dict"]
    found = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        deployment = Deployment(folder, monkeypatch, **options)
        _, sites = run(deployment)
        assert deployment.errors == []
        found.append(deployment.tensors(*sites))
        assert len({site.batch_seed for site in sites} | {0}) == 3
    for name in one:
        if "trained.discriminator" in name and "weight" in name:
            assert not torch.equal(found[0][name], found[1][name]), name
            assert not torch.equal(found[0][name], one[name]), name


def test_steps_that_a_killed_server_takes_again_count_again_with_other_noise(tmp_path, monkeypatch):
    deployment = Deployment(tmp_path, monkeypatch, **make_private(noise=1.0))
    server = deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    port = deployment.network.port
    saved = deployment.kill_server(3)
    seeds = [server.engine.noise_seed, *(site.batch_seed for site in sites)]
    assert saved["huscf"]["server"]["step"] == 2
    assert saved["huscf"]["engine"]["private_steps"] == {0: 2, 1: 2}
    server = deployment.start_server(saved=saved, port=port)
    deployment.finish(*sites)
    assert [str(error) for error in deployment.errors] == ["killed"]
    # Two of the first round, the third step twice, the fourth.
    assert server.engine.budget.num_steps == {0: 5, 1: 5}
    assert [site.budget.num_steps for site in sites] == [{0: 5}, {1: 5}]
    assert json.loads((tmp_path / "served" / "privacy.json").read_text())["private_steps"] == {
        "0": 5,
        "1": 5,
    }
    assert not {*seeds} & {server.engine.noise_seed, *(site.batch_seed for site in sites)}
    last = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    assert last["huscf"]["engine"]["private_steps"] == {0: 5, 1: 5}


def test_a_site_keeps_its_own_count_and_its_half_goes_on_from_it(tmp_path, monkeypatch):
    deployment = Deployment(tmp_path, monkeypatch, **make_private(noise=1.0))
    _, (site, _) = run(deployment)
    assert site.kept.read(2)["huscf"]["site"]["budget"]["private_steps"] == {0: 2}
    ledger = Ledger(site.kept.path)
    # It was killed within a step after its half was saved: what it counted is on the disk.
    state = site.budget.get_state()
    ledger.write({**state, "private_steps": {0: 7}})
    ledger.write({**state, "private_steps": {0: 5}})  # a process that was displaced since
    budget = RecordBudget(site.budget.options, {0: 8}, {0: 40})
    ledger.read_into(budget)
    assert budget.num_steps == {0: 7}
    site.half.budget = budget
    site.half.set_state({**site.half.get_state(), "budget": state}, None)
    assert budget.num_steps == {0: 7}
    # Nor is it counted as if it had had other noise.
    quiet = RecordBudget(DifferentialPrivacy(4.0, delta=1e-3), {0: 8}, {0: 40})
    with pytest.raises(CheckpointError, match="noise_multiplier is 4, and the checkpoint's steps"):
        ledger.read_into(quiet)
    foreign = json.dumps({**state, "private_steps": {5: 1}})
    for damaged in ("", "{}", '{"private_steps": 3}', "[1]", foreign):
        ledger.path.write_text(damaged)
        with pytest.raises(CheckpointError, match=r"privacy\.json is damaged"):
            ledger.read_into(budget)


def test_neither_end_goes_on_from_a_half_without_what_it_has_counted_since(tmp_path, monkeypatch):
    deployment = Deployment(tmp_path, monkeypatch, **make_private(noise=1.0))
    server, sites = run(deployment)
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    ledgers = [Ledger(server.folder).path, Ledger(sites[0].kept.path).path]
    for path in ledgers:
        content = path.read_bytes()
        path.unlink()
        begin = sites[0]._go_on if path == ledgers[1] else None
        with pytest.raises(CheckpointError, match=r"privacy\.json is missing, so that nobody"):
            begin(4, False) if begin else deployment.start_server(saved=saved)
        path.write_bytes(content)
    assert deployment.start_server(saved=saved).engine.budget.num_steps == {0: 4, 1: 4}
    deployment.finish(*(deployment.start_site(name) for name in ROSTER))
    assert deployment.errors == []


def test_the_run_ends_with_the_budget_and_a_round_and_can_end_once_more(tmp_path, monkeypatch):
    options = make_private(noise=1.0)
    limit = RecordBudget(DifferentialPrivacy(1.0, 1.0, 1e-3, None, "rdp"), {0: 8}, {0: 40})
    limit.num_steps[0] = 3
    options["model"]["privacy"]["max_epsilon"] = limit.epsilon() + 1e-6
    deployment = Deployment(tmp_path, monkeypatch, **options)
    server, _ = run(deployment)
    assert deployment.errors == []
    assert server.step == 3 and server.num_rounds == 2
    assert "the budget of model.privacy has no room for another step" in deployment.lines
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    server = deployment.start_server(saved=saved)
    back = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(*back)
    assert deployment.errors == [] and server.step == 3
    assert server.engine.budget.num_steps == {0: 3, 1: 3}


def test_a_site_takes_no_step_beyond_its_own_budget(tmp_path, monkeypatch):
    options = make_private(noise=1.0)
    limit = RecordBudget(DifferentialPrivacy(1.0, 1.0, 1e-3, None, "rdp"), {0: 8}, {0: 40})
    limit.num_steps[0] = 3
    deployment = Deployment(tmp_path, monkeypatch, **options)
    server = deployment.start_server("--sites.step_timeout_s=1", "--sites.min_clients=1")
    wary = deployment.start_site("site-a", max_epsilon=limit.epsilon() + 1e-6)
    other = deployment.start_site("site-b")
    wary.thread.join(60)
    wary.exchange.close()
    deployment.finish(other)
    (error,) = deployment.errors
    assert re.fullmatch(
        r"privacy: epsilon is [\d.]+, and another step would exceed this site's [\d.]+: it takes "
        "part no longer",
        str(error),
    )
    assert wary.budget.num_steps == {0: 3} and other.budget.num_steps == {1: 4}
    # The server counts the step for which it has called it, and trains without it.
    assert server.engine.budget.num_steps == {0: 4, 1: 4}
    assert server.engine.num_dropped == {0: 1, 1: 0}


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.privacy.max_epsilon=0.0001"], "of which 0 is spent"),
        (["--model.privacy.delta=0.2"], "1 / the 40 records"),
        (["--model.method.init_args.discriminator.init_args.norm=batch"], "BatchNorm2d"),
        (["--model.method.init_args.mismatched_weight=1"], "method.mismatched_weight 0"),
        (["--federation.rule=huscf.federation.KMeansClusters"], "GivenClusters"),
    ],
)
def test_what_is_no_guarantee_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch, options, message
):
    deployment = Deployment(tmp_path, monkeypatch, **make_private(noise=1.0))
    refuse(deployment, options, message, "privacy.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.on_nonfinite=drop"], "model.on_nonfinite"),
        (["--model.method.init_args.fake_label_weights=null"], "fake_label_weights"),
        (["--model.privacy.delta=null"], "privacy.delta: an epsilon says nothing without it"),
        (["--model.privacy.noise_multiplier=-1"], "privacy.noise_multiplier"),
    ],
)
def test_a_server_refuses_at_once_what_it_can(tmp_path, options, message):
    config = write_config(tmp_path / "run.yaml", **make_private(noise=1.0))
    with pytest.raises(HuscfError, match=re.escape(message)):
        read_run_config(["--config", str(config), *options])


def test_a_site_refuses_what_its_records_are_not_private_in(tmp_path, monkeypatch):
    privacy = {"noise_multiplier": 1.0, "delta": 1e-3, "max_epsilon": 9.0}
    assert read_privacy(None, None) is None
    assert read_privacy(privacy, 3.0).max_epsilon == 3.0
    assert read_privacy(privacy, 30.0).max_epsilon == 9.0
    assert read_privacy({**privacy, "max_epsilon": None}, 3.0).max_epsilon == 3.0
    with pytest.raises(HuscfError, match="--max_epsilon 3: the server's run has no model"):
        read_privacy(None, 3.0)
    with pytest.raises(HuscfError, match="without noise there is no epsilon"):
        read_privacy({"noise_multiplier": 0.0, "delta": 1e-3}, 3.0)
    with pytest.raises(HuscfError, match="set it to poisson in this site's configuration"):
        check_sampling("shuffled", DifferentialPrivacy(delta=1e-3))
    with pytest.raises(HuscfError, match="set it to shuffled in this site's configuration"):
        check_sampling("poisson", None)
    deployment = Deployment(tmp_path, monkeypatch, **make_private())
    _, (site, _) = run(deployment)
    step = {"kind": "step", "step": 3, "round": 2, "clients": [0], "observe": []}
    with pytest.raises(HuscfError, match="asks for step 3, and step 3 was run"):
        site._do(step)
    with pytest.raises(HuscfError, match="asks for activations to compare clients by"):
        site._do({**step, "step": 4, "observe": [0]})
