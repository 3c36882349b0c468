"""A server that hands out its part of the generator, and sites that then draw without it."""

import numpy as np
import pytest
import torch

from huscf.__main__ import main
from huscf.checkpoint_io import read_checkpoint
from huscf.deploy.run_config import read_run_config
from huscf.engines.remote import fetch_drawn
from huscf.engines.remote.step import DroppedError
from huscf.errors import CheckpointError, HuscfError
from huscf.randomness import make_generator
from huscf.sampling import load_gan
from huscf.wire.frames import Frame, pack
from tests.deploy.cases import ROSTER, Deployment, name_method, write_config

#: The networks through which a method draws, and through which of their blocks.
DRAWN = {
    "HuscfGan": "average.generator",
    "Vae": "trained.decoder",
    "FlowMatching": "average.denoiser",
}


def run(folder, monkeypatch, *options, method="HuscfGan"):
    """Run two sites to the end, which draw three samples of each class through the server."""
    deployment = Deployment(folder, monkeypatch, model={"method": name_method(method)})
    deployment.start_server(*options)
    sites = [deployment.start_site(name, num_samples=3) for name in ROSTER]
    deployment.finish(*sites)
    assert deployment.errors == []
    return deployment, sites


def read_through(site):
    """Return what a site has drawn through the server."""
    return np.load(site.kept.path / "samples" / "samples.npz")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A finished run whose sites have a whole generator each."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("shared")
        return run(folder, monkeypatch, "--run.share_generator=true")


@pytest.mark.parametrize("method", DRAWN)
def test_what_is_drawn_without_the_server_is_what_is_drawn_through_it(
    method, tmp_path, monkeypatch, request
):
    if method == "HuscfGan":
        deployment, sites = request.getfixturevalue("shared")
    else:
        options = ("--run.share_generator=true",)
        deployment, sites = run(tmp_path, monkeypatch, *options, method=method)
    for site in sites:
        through, path = read_through(site), site.kept.path / "generator.ckpt"
        saved = load_gan(path)
        (client_id,) = site.clients
        assert saved.module.clusters == {client_id: int(through["cluster"][0])}
        stream = make_generator(site.noise_seed, "generate", client_id)
        labels = torch.from_numpy(through["labels"])
        drawn = saved.module.sample(client_id, labels, stream)
        assert np.array_equal(drawn.numpy(), through["samples"])
        # What nobody draws through has not left the server, nor is the site's own in the file.
        holding, network = DRAWN[method].split(".")
        for name in read_checkpoint(path)["state_dict"]:
            owner, *rest = name.removeprefix("parties.").removeprefix("clients.").split(".")
            assert owner in ("server", str(client_id))
            assert rest[0] == holding and rest[1].startswith(network), name
    assert "a whole generator is at site-a, site-b" in deployment.lines
    blocks = deployment.server.engine.wire.traffic.num_bytes
    sent = {k.client_id: n for k, n in blocks.items() if k.kind == "moved_blocks"}
    for site in sites:
        (client_id,) = site.clients
        state = read_checkpoint(site.kept.path / "generator.ckpt")["state_dict"]
        server = (t.nbytes for n, t in state.items() if n.startswith("parties.server."))
        assert sent[client_id] == sum(server) > 0


def test_it_is_a_generator_for_generate_and_export_and_no_run(shared, tmp_path, capsys):
    site = shared[1][0]
    path = site.kept.path / "generator.ckpt"
    ckpt = f"--ckpt_path={path}"
    out = str(tmp_path / "drawn")
    assert main(["generate", ckpt, "--num_samples=20", "--output", out]) == 0
    assert len(list((tmp_path / "drawn" / "digits").glob("*/*.png"))) == 20
    assert main(["export", ckpt, "--client=0", "--output", str(tmp_path / "g.pt")]) == 0
    network = load_gan(path).module.engine.sampling_network("generator", 0).state_dict()
    exported = torch.load(tmp_path / "g.state_dict.pt", weights_only=True)
    assert network.keys() == exported.keys()
    assert all(torch.equal(network[name], exported[name]) for name in network)
    with pytest.raises(CheckpointError, match="what a site draws with, and no run"):
        load_gan(path, engine="serial")
    capsys.readouterr()
    config = ["--config=quickstart", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    assert main(["fit", *config, ckpt]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "what a site draws with, and no run" in error
    content = torch.load(path, weights_only=True)
    gone = next(n for n in content["state_dict"] if n.startswith("parties.server."))
    del content["state_dict"][gone]
    torch.save(content, tmp_path / "less.ckpt")
    ckpt = f"--ckpt_path={tmp_path / 'less.ckpt'}"
    assert main(["generate", ckpt, "--num_samples=20", "--output", str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{gone} is none" in error


def test_a_half_says_how_samples_are_drawn(shared, tmp_path, capsys):
    deployment, sites = shared
    server = deployment.folder / "served" / "checkpoints" / "last.ckpt"
    site = sites[0].kept.file(4)
    for path, line in ((site, "run.share_generator: true"), (server, "they draw, with huscf join")):
        options = ["--num_samples=20", "--output", str(tmp_path / "no")]
        assert main(["generate", f"--ckpt_path={path}", *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and line in error


def test_a_server_hands_out_nothing_until_its_configuration_says_so(tmp_path, monkeypatch):
    deployment, sites = run(tmp_path, monkeypatch)
    for site in sites:
        assert read_through(site)["samples"].shape == (30, 1, 8, 8)
        assert not list(site.kept.path.glob("generator*"))
    assert not any("whole generator" in line for line in deployment.lines)
    engine = deployment.server.engine
    fields = {"refs": [[0, "average", "generator", 1]]}
    with pytest.raises(DroppedError):
        engine.answer("site-a", Frame(pack({"kind": "fetch", **fields})))
    # Started once more, it ends the run for those who join.
    saved = read_checkpoint(deployment.folder / "served" / "checkpoints" / "last.ckpt")
    deployment.start_server("--run.share_generator=true", "--sites.wait_timeout_s=5", saved=saved)
    site = deployment.start_site("site-b")
    deployment.finish(site)
    assert deployment.errors == [] and deployment.lines[-1].startswith("2 rounds, 4 steps")
    assert [p.name for p in site.kept.path.glob("generator*")] == ["generator.ckpt"]
    assert "a whole generator is at site-b" in deployment.lines


def test_a_site_that_is_killed_while_it_gets_its_generator_takes_it_from_no_other(
    tmp_path, monkeypatch
):
    deployment = Deployment(tmp_path, monkeypatch)
    limits = ["--sites.min_clients=1", "--sites.evaluation_timeout_s=3"]
    deployment.start_server("--run.share_generator=true", *limits)
    first, dying = (deployment.start_site(name) for name in ROSTER)
    do, ask, asked = dying._do, dying.caller.ask, []

    def ask_or_die(kind, *rest):
        asked.append(kind)
        if len(asked) == 2:
            dying.exchange.close()
            raise RuntimeError("killed")
        return ask(kind, *rest)

    def do_or_die(command):
        if command["kind"] == "keep":
            dying.caller.ask = ask_or_die
        return do(command)

    dying._do = do_or_die
    deployment.finish(first, dying)
    assert asked == ["fetch", "fetch"]
    assert [str(error) for error in deployment.errors] == ["killed"]
    assert "a whole generator is at site-a" in deployment.lines
    assert [p.name for p in first.kept.path.glob("generator*")] == ["generator.ckpt"]
    assert not list(dying.kept.path.glob("generator*"))


def test_a_server_that_names_no_cluster_of_a_client_is_one_line(shared):
    with pytest.raises(HuscfError, match="the server names no cluster of client 0"):
        fetch_drawn(shared[1][0].half, {1: 0}, None)


def test_a_flag_that_is_none_is_one_line(tmp_path):
    config = write_config(tmp_path / "run.yaml")
    with pytest.raises(HuscfError, match="share_generator is maybe, must be true or false"):
        read_run_config(["--config", str(config), "--run.share_generator=maybe"])
