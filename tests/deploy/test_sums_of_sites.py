"""Sites that are compared by a mean and a covariance: as in one process, without activations."""

import csv
from functools import partial

import pytest
import torch
import yaml

from huscf.checkpoint_io import read_checkpoint
from huscf.errors import HuscfError
from huscf.wire.frames import Frame
from tests.deploy.cases import Deployment, fit_config, write_config
from tests.deploy.test_runs import assert_bit_equal

ROSTER = {"site-a": (0, 1), "site-b": (2, 3)}


def compare(path, **federation):
    """Four clients of two domains, of which clusters are to be found."""
    values = yaml.safe_load(path.read_text())
    values["data"]["init_args"]["clients_per_domain"] = 2
    rule = {"class_path": "huscf.federation.KMeansClusters", "init_args": {"num_clusters": 2}}
    federation = {"observe": "statistics", "rule": rule, "weighting": "kld", **federation}
    values["federation"].update({"observed_samples": 16, **federation})
    path.write_text(yaml.safe_dump(values))
    return path


def fit(folder, **federation):
    config = write_config(folder / "run.yaml", enable_progress_bar=False)
    fit_config(compare(config, **federation))
    return folder / "runs" / "tiny-1"


def read_decisions(folder):
    rows = csv.DictReader((folder / "federation.csv").read_text().splitlines())
    return [(row["round"], row["client"], row["cluster"], row["weight"]) for row in rows]


def serve(folder, monkeypatch, secrets=(None, None), **federation):
    """A whole run; returns it, the sites, and the frames that they sent."""
    deployment = Deployment(folder, monkeypatch, ROSTER)
    compare(deployment.config, **federation)
    for name, secret in zip(ROSTER, secrets, strict=True):
        if secret is not None:
            (deployment.kit / name / "secret").write_text(secret)
    server, frames = deployment.start_server(), []
    handle = server.sessions.handle
    server.sessions.handle = lambda name, data: frames.append(Frame(data)) or handle(name, data)
    sites = [deployment.start_site(name) for name in ROSTER]
    deployment.finish(*sites)
    assert deployment.errors == []
    return deployment, sites, frames


def test_clusters_weights_and_tensors_are_those_of_one_process(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    folder = fit(tmp_path / "one")
    one = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    deployment, sites, frames = serve(tmp_path, monkeypatch)
    assert_bit_equal(one["state_dict"], deployment.tensors(*sites))
    decisions = read_decisions(deployment.folder / "served")
    assert decisions == read_decisions(folder) and len(decisions) == 8
    assert len({cluster for *_, cluster, _ in decisions}) == 2
    traffic = deployment.server.engine.wire.traffic.state_dict()
    assert traffic == one["huscf"]["engine"]["traffic"]
    # Once a round and client, two sums; what reads samples is asked for by steps alone.
    sums = [frame for frame in frames if frame.header["kind"] == "statistics"]
    assert sorted(frame.header["client"] for frame in sums) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(frame.names == ["values", "products"] for frame in sums)
    assert not [frame for frame in frames if frame.header["kind"] == "observe"]
    line = "clients are compared by a mean and a covariance, once a round"
    assert deployment.lines.count(line) == 2


def test_noise_is_drawn_from_each_site_s_secret(tmp_path, monkeypatch):
    found = []
    for number, secrets in enumerate([("a", "b"), ("a", "c"), (None, None)]):
        (tmp_path / str(number)).mkdir()
        noise = 1.0 if number < 2 else 0.0
        given = serve(tmp_path / str(number), monkeypatch, secrets, statistics_noise=noise)
        # The first round's: what follows is of other weights, but not of other samples.
        sums = {}
        for frame in given[2]:
            if frame.header["kind"] == "statistics":
                specs = {name: frame._found[name][0] for name in frame.names}
                sums.setdefault(frame.header["client"], frame.take_tensors(specs)["values"])
        found.append(sums)
    one, other, plain = found
    assert torch.equal(one[0], other[0]) and not torch.equal(one[2], other[2])
    assert not torch.equal(one[0], plain[0]) and not torch.equal(one[2], plain[2])


def test_a_site_refuses_activations_that_it_was_not_to_show(tmp_path, monkeypatch):
    _, (site, _), _ = serve(tmp_path, monkeypatch)
    command = {"kind": "step", "step": 4, "round": 2, "clients": [0], "observe": [0]}
    with pytest.raises(HuscfError, match="asks for activations to compare clients by, and was to"):
        site._do(command)


def test_sums_are_saved_with_the_half_and_forgotten_with_the_round(tmp_path, monkeypatch):
    _, (site, _), _ = serve(tmp_path, monkeypatch)
    samples = partial(torch.full, (3, 1, 8, 8), dtype=torch.uint8)
    sums = site.half._sums
    sums.add(7, 14, 0, samples(5))
    saved = site.half.get_state()
    sums.add(7, 15, 0, samples(200))
    once = sums.get_state()["statistics"]["clients"][0]
    assert once["samples"] == 6
    site.half.set_state(saved, None)
    assert sums.get_state()["statistics"]["clients"][0]["samples"] == 3
    sums.add(7, 15, 0, samples(200))
    assert torch.equal(sums.get_state()["statistics"]["clients"][0]["values"], once["values"])
    # Who was away when the round ended begins the next one anew.
    sums.add(8, 16, 0, samples(9))
    assert sums.get_state()["statistics"]["clients"][0]["samples"] == 3
    # A round that has been told of is told of once.
    asked = []
    ask = lambda kind, fields, tensors: asked.append((kind, fields))  # noqa: E731
    for _ in range(2):
        site.half.close({"round": 8}, ask)
        sums.add(8, 17, 0, samples(9))
    assert asked == [("statistics", {"client": 0, "samples": 3})]
