"""The tiny run of sites under differential privacy of records."""

import yaml

from huscf.deploy import site_run
from huscf.engines.remote import engine
from tests.deploy.cases import name_method


def make_private(method="HuscfGan", noise=0.0, **options):
    """Options of `write_config`; batches of 8 of 40 records on average."""
    found = yaml.safe_load(yaml.safe_dump(name_method(method)))
    arguments = found["init_args"]
    for network in arguments.keys() & {"discriminator", "encoder", "decoder"}:
        arguments[network]["init_args"]["norm"] = "group"
    if "discriminator" in arguments:
        arguments |= {"fake_label_weights": [1] * 10, "mode_seeking": 0.1}
    privacy = {"noise_multiplier": noise, "delta": 0.001, "accountant": "rdp", **options}
    model = {"method": found, "privacy": {"max_grad_norm": 0.5, **privacy}}
    return {"model": model, "data": {"sampling": "poisson"}}


def run(deployment, *options, saved=None):
    """A server and its sites, to the end."""
    server = deployment.start_server(*options, saved=saved)
    sites = [deployment.start_site(name) for name in deployment.roster]
    deployment.finish(*sites)
    return server, sites


def refuse(deployment, options, message, kept):
    """The server refuses to begin, in one line, and neither trains nor counts anything."""
    deployment.start_server(*options)
    sites = [deployment.start_site(name) for name in deployment.roster]
    for site in sites:
        site.thread.join(60)
        site.exchange.close()
    deployment.finish()
    (error,) = deployment.errors
    assert message in str(error) and "\n" not in str(error)
    assert not (deployment.folder / "served" / "metrics.csv").exists()
    assert not (deployment.folder / "served" / kept).exists()
    assert all(site.num_steps == 0 for site in sites)


def draw_as_one_process(monkeypatch):
    """Let both ends draw by the run's seed, which is 0, what they draw by secrets of their own."""
    monkeypatch.setattr(site_run, "draw_seed", lambda: 0)
    monkeypatch.setattr(engine.secrets, "randbits", lambda bits: 0)
