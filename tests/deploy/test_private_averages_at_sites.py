"""Differential privacy of whole clients at sites: the run of one process, counted on the disk."""

import json

import pytest
import torch
import yaml

from huscf.checkpoint_io import read_checkpoint
from huscf.engines import ClientPrivacy, PrivateAverages
from huscf.engines.remote import Dismissed
from huscf.errors import CheckpointError, NonFiniteError
from tests.deploy.cases import ROSTER, Deployment, fit, name_method
from tests.deploy.private_cases import draw_as_one_process, refuse, run
from tests.deploy.test_runs import assert_bit_equal, read_rows

pytest.importorskip("dp_accounting", reason="an extra")

COLUMNS = ("privacy/client_epsilon", "privacy/client_delta", "privacy/median_update_norm")


def make_options(noise=1.0, method="FedGan", **options):
    """Options of `write_config`: two clients, two rounds of two steps."""
    method = yaml.safe_load(yaml.safe_dump(name_method(method)))
    for network in ("generator", "discriminator"):
        method["init_args"][network]["init_args"]["norm"] = "group"
    privacy = {"noise_multiplier": noise, "delta": 0.01, "accountant": "rdp", **options}
    return {
        "model": {"method": method},
        "federation": {"weighting": "uniform", "moments": "reset", "privacy": privacy},
    }


def read_kept(deployment):
    return json.loads((deployment.folder / "served" / "private_rounds.json").read_text())


@pytest.mark.parametrize(
    ("method", "noise"), [("FedGan", 0.0), ("FedGan", 1.0), ("FeGan", 1.0), ("ProximalGan", 1.0)]
)
def test_a_run_of_sites_is_that_of_one_process(method, noise, tmp_path, monkeypatch):
    options = make_options(noise, method, max_update_norm=0.1)
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one", **options)
    draw_as_one_process(monkeypatch)
    deployment = Deployment(tmp_path, monkeypatch, **options)
    server, sites = run(deployment)
    assert deployment.errors == []
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    known = one["huscf"]["engine"]
    assert server.engine.wire.traffic.state_dict() == known["traffic"]
    rows = read_rows(deployment.folder / "served" / "metrics.csv")
    wanted = read_rows(tmp_path / "one" / "runs" / "tiny-1" / "metrics.csv")
    for name in COLUMNS:
        assert [row.get(name) for row in rows] == [row.get(name) for row in wanted]
    assert read_kept(deployment) == {"rounds": 2, "noise_multiplier": noise}
    if noise:
        epsilon = float(rows[-1]["privacy/client_epsilon"])
        assert epsilon > float(rows[0]["privacy/client_epsilon"]) > 0
        said = f", clients' epsilon {epsilon:.3f} at delta 0.01"
        assert sum(said in line for line in deployment.lines) == 1


def test_noise_follows_from_no_seed_and_every_client_has_the_same_average(tmp_path, monkeypatch):
    found = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        deployment = Deployment(tmp_path / str(number), monkeypatch, **make_options())
        _, sites = run(deployment)
        assert deployment.errors == []
        found.append(deployment.tensors(*sites))
    names = [n for n in found[0] if n.startswith("parties.clients.0.") and "weight" in n]
    assert names
    for name in names:
        assert torch.equal(found[0][name], found[0][name.replace("clients.0", "clients.1")])
        assert not torch.equal(found[0][name], found[1][name])


def test_averages_that_a_killed_server_makes_again_count_again(tmp_path, monkeypatch):
    deployment = Deployment(tmp_path, monkeypatch, **make_options())
    killed = deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    port = deployment.network.port
    saved = deployment.kill_server(3)
    assert read_kept(deployment)["rounds"] == 1
    # Killed after the second average was made, and before the half was saved.
    kept = tmp_path / "served" / "private_rounds.json"
    kept.write_text(json.dumps({**read_kept(deployment), "rounds": 2}))
    server = deployment.start_server(saved=saved, port=port)
    deployment.finish(*sites)
    assert [str(error) for error in deployment.errors] == ["killed"]
    assert server.num_rounds == 2 and server.engine.noise_seed != killed.engine.noise_seed
    assert read_kept(deployment)["rounds"] == 3
    last = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    assert last["huscf"]["server"]["federation"]["private"]["num_rounds"] == 3


def test_a_server_does_not_go_on_without_what_it_has_counted_since(tmp_path, monkeypatch):
    deployment = Deployment(tmp_path, monkeypatch, **make_options())
    run(deployment)
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    kept = tmp_path / "served" / "private_rounds.json"
    content = kept.read_text()
    for bad, message in (
        (None, r"private_rounds\.json is missing, so that nobody knows"),
        ("{}", r"private_rounds\.json is damaged"),
        ("[1]", r"private_rounds\.json is damaged"),
        ('{"rounds": Infinity, "noise_multiplier": 1.0}', r"private_rounds\.json is damaged"),
        ('{"rounds": -3, "noise_multiplier": 1.0}', r"private_rounds\.json is damaged"),
        ('{"rounds": true, "noise_multiplier": 1.0}', r"private_rounds\.json is damaged"),
        ('{"rounds": 1.9, "noise_multiplier": 1.0}', r"private_rounds\.json is damaged"),
        ('{"rounds": 2, "noise_multiplier": NaN}', r"private_rounds\.json is damaged"),
        (json.dumps({"rounds": 2, "noise_multiplier": 4.0}), "had 4: keep that, or train anew"),
    ):
        kept.unlink()
        if bad is not None:
            kept.write_text(bad)
        with pytest.raises(CheckpointError, match=message):
            deployment.start_server(saved=saved)
        kept.write_text(content)
    server, _ = run(deployment, saved=saved)
    assert deployment.errors == [] and server.num_rounds == 2
    assert read_kept(deployment)["rounds"] == 2


def test_the_run_ends_with_the_last_round_of_the_budget_and_can_end_once_more(
    tmp_path, monkeypatch
):
    averages = PrivateAverages(ClientPrivacy(1.0, 1.0, 0.01, accountant="rdp"))
    budget = (averages.epsilon(1) + averages.epsilon(2)) / 2
    deployment = Deployment(tmp_path, monkeypatch, **make_options(max_epsilon=budget))
    server, _ = run(deployment)
    assert deployment.errors == []
    assert server.step == 2 and server.num_rounds == 1
    said = "the budget of federation.privacy has no room for another round"
    assert deployment.lines.count(said) == 1
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    server, _ = run(deployment, saved=saved)
    assert deployment.errors == [] and server.step == 2 and server.num_rounds == 1


def test_no_client_ends_with_what_it_has_trained_by_itself(tmp_path, monkeypatch):
    """The last round averages nothing, as all of a cluster are away: clients go back."""
    roster = {"site-a": (0, 1), "site-b": (2, 3)}
    clusters = {"clusters": [[0, 1], [2, 3]]}
    rule = {"class_path": "huscf.federation.GivenClusters", "init_args": clusters}
    options = make_options(max_update_norm=0.1)
    options["federation"]["rule"] = rule
    deployment = Deployment(
        tmp_path, monkeypatch, roster=roster, data={"clients_per_domain": 2}, **options
    )
    server = deployment.start_server(
        "--run.share_generator=true", "--sites.step_timeout_s=5", "--sites.wait_timeout_s=5"
    )
    stays, goes = (deployment.start_site(name) for name in roster)
    assert server._is_set_up.wait(60)
    run_step = server.engine.run_step

    def lose(present, number):
        result = run_step(present, number)
        if number == 3:
            goes.exchange.close()
            assert server.sessions.wait_for(lambda: "site-b" not in server.sessions.present(), 30)
        return result

    server.engine.run_step = lose
    deployment.finish(stays)
    private = server.config.federation.private
    assert (server.num_rounds, private.num_rounds) == (2, 1)
    said = "nothing is averaged in this round: of some cluster nobody is there"
    assert deployment.lines.count(said) == 1
    said = "no samples and no generator of site-b: without the last average"
    assert deployment.lines.count(said) == 1
    for client_id in (0, 1):
        for name in ("generator", "discriminator"):
            for index, block in stays.half.client(client_id).trained.blocks(name).items():
                for key, tensor in block.state_dict().items():
                    last = private.received[client_id][f"trained {name} {index}"][key]
                    assert torch.equal(tensor, last)
    (path,) = (tmp_path / "site-a").rglob("generator.ckpt")
    handed = read_checkpoint(path)["state_dict"]
    names = [n for n in handed if "clients.0." in n and "generator" in n]
    assert names
    assert all(torch.equal(handed[n], handed[n.replace("clients.0", "clients.1")]) for n in names)


def test_other_sites_do_not_hear_whose_loss_has_stopped_the_run(tmp_path, monkeypatch):
    deployment = Deployment(tmp_path, monkeypatch, **make_options())
    server = deployment.start_server()
    sites = [deployment.start_site(name) for name in ROSTER]
    assert server._is_set_up.wait(60)

    def fail(present, number):
        raise NonFiniteError(1, "discriminator loss is NaN or Inf")

    server.engine.run_step = fail
    heard = []
    deployment.leader.join(60)
    for site in sites:
        site.thread.join(60)
        with pytest.raises(Dismissed) as goodbye:
            site.caller.ask("ready", {"answers": 0, "answer": None})
        heard.append(str(goodbye.value))
    deployment.finish(*sites)
    assert heard == ["the run has stopped, its server knows why"] * 2
    (error,) = deployment.errors
    assert "client 1" in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--federation.privacy.max_epsilon=0.0001"], "of which 0 is spent"),
        (["--federation.privacy.delta=0.5"], "1 / the 2 clients"),
        (["--federation.weighting=samples"], "set federation.weighting to uniform"),
        (["--federation.rule=huscf.federation.KMeansClusters"], "tell of them"),
        (["--model.method.init_args.discriminator.init_args.norm=batch"], "norm of the network"),
        (["--model.method.class_path=huscf.methods.HuscfGan"], "lies at the server"),
    ],
)
def test_what_is_no_guarantee_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch, options, message
):
    deployment = Deployment(tmp_path, monkeypatch, **make_options())
    refuse(deployment, options, message, "private_rounds.json")
