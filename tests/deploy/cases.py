"""A tiny run of sites in threads, over gRPC on the loopback or between cells of NVFlare's."""

import threading

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.callbacks import Evaluation, SampleGrid
from huscf.check_data import read_datamodule
from huscf.checkpoint_io import read_checkpoint
from huscf.deploy import site_run, welcome
from huscf.deploy.grpc_wire import GrpcExchange, GrpcServer
from huscf.deploy.joining import digest_weights
from huscf.deploy.kits import Tls, write_kits
from huscf.deploy.run_config import build_method, read_run_config
from huscf.deploy.server_run import ServerRun
from huscf.deploy.site_run import SiteRun
from huscf.deploy.site_samples import evaluate_site
from huscf.engines.remote import Caller
from huscf.methods import build_networks
from huscf.models import SampleShape
from huscf.trust import Trust

ROSTER = {"site-a": (0,), "site-b": (1,)}
WIDTH = {"init_args": {"width": 4, "depth": 4}}
PAIR = {
    "generator": {"class_path": "huscf.models.ConditionalGenerator", **WIDTH},
    "discriminator": {"class_path": "huscf.models.ConditionalDiscriminator", **WIDTH},
    "latent_dim": 8,
}
#: Arguments of tiny networks, by method.
METHODS = {
    "HuscfGan": PAIR,
    "FedGan": PAIR,
    "FeGan": PAIR,
    "ProximalGan": PAIR,
    "Vae": {
        "encoder": {"class_path": "huscf.models.ConditionalEncoder", **WIDTH},
        "decoder": {"class_path": "huscf.models.ConditionalGenerator", **WIDTH},
    },
    "FlowMatching": {
        "denoiser": {"class_path": "huscf.models.UNet", "init_args": {"width": 8}},
        "num_steps": 3,
    },
}


def name_method(name):
    """The section of a configuration that says which method is trained."""
    return {"class_path": f"huscf.methods.{name}", "init_args": METHODS[name]}


#: Of the digits, whose sites most tests have.
OWN = SampleShape(1, 8, 10)


def make_welcome(**changes):
    """What an honest server says to a site of two clients."""
    values = name_method("HuscfGan")
    networks = build_networks(build_method(values, Trust()), OWN, 3)
    return {
        **{"run": "abc1", "method": values, "seed": 3, "shape": [1, 8, 10]},
        "blocks": [["generator", 4], ["discriminator", 4]],
        "cuts": [[4, [1, 1, 1, 1]], [7, [1, 2, 1, 1]]],
        "weights": digest_weights(networks),
        **{"compression": None, "wire": {"bits": {"blocks": 8}}, "step": 12, "new": False},
        **{"secure": False, "comparison": {"shown": "reference"}, "privacy": None},
        "replans": True,
        **changes,
    }


def write_config(path, data=None, model=None, federation=None, **trainer):
    """Two clients, two rounds of two steps."""
    config = {
        "data": {
            "class_path": "huscf.datamodules.DigitsDataModule",
            "init_args": {
                "clients_per_domain": 1,
                "batch_size": 8,
                "samples_per_client": 40,
                "steps_per_epoch": 2,
                **(data or {}),
            },
        },
        "model": {
            "method": name_method("HuscfGan"),
            **(model or {}),
        },
        "federation": {
            "every_n_epochs": 1,
            "rule": {"class_path": "huscf.federation.OneCluster"},
            **(federation or {}),
        },
        "evaluation": {"every_n_rounds": -1},
        "run": {"name": "tiny"},
        "trainer": {"max_epochs": 2, "default_root_dir": str(path.parent / "runs"), **trainer},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def fit(folder, **options):
    """Run `huscf fit` with the serial engine, without figures; return its last checkpoint."""
    return fit_config(write_config(folder / "run.yaml", enable_progress_bar=False, **options))


def fit_config(config):
    """Do so with a configuration of `write_config`'s."""
    arguments = ["--model.engine", "serial", "--report.enabled", "false"]
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Evaluation, "on_round_end", lambda *_: None)
        monkeypatch.setattr(SampleGrid, "on_round_end", lambda *_: None)
        assert main(["fit", "--config", str(config), "--training.num_threads=1", *arguments]) == 0
    torch.set_num_threads(before)
    return read_checkpoint(config.parent / "runs" / "tiny-1" / "checkpoints" / "last.ckpt")


class GrpcNetwork(GrpcServer):
    """Streams with mutual TLS."""

    def __init__(self, sessions, kit, port=0):
        super().__init__(sessions, Tls.read(kit / "server"), f"127.0.0.1:{port}")
        self.kit = kit

    def dial(self, name, say):
        return GrpcExchange(f"localhost:{self.port}", Tls.read(self.kit / name), 30.0, say)


class Deployment:
    """A server's kit, sites' kits, and what runs of them."""

    def __init__(self, folder, monkeypatch, roster=ROSTER, make_network=GrpcNetwork, **options):
        self.roster, self.make_network = dict(roster), make_network
        self.folder = folder
        self.config = write_config(folder / "run.yaml", **options)
        self.kit = folder / "kit"
        write_kits(self.kit, self.roster, "localhost")
        for name in self.roster:
            (self.kit / name / "secret").unlink()  # as one process draws
        self.lines, self.errors, self.lock = [], [], threading.Lock()
        self.method = read_run_config(["--config", str(self.config)]).method
        # The parser's settings and torch's stream are those of a process, which here is one.
        monkeypatch.setattr(welcome, "build_method", lambda values, trust: self.method)
        monkeypatch.setattr(welcome, "build_networks", self.build_networks)
        monkeypatch.setattr(site_run, "evaluate_site", self.evaluate_site)

    def build_networks(self, *args):
        with self.lock:
            return build_networks(*args)

    def evaluate_site(self, *args):
        with self.lock:
            return evaluate_site(*args)

    def start_server(self, *options, saved=None, port=0, folder="served"):
        config = read_run_config(["--config", str(self.config), *options])
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        self.server = ServerRun(config, self.roster, place, saved, self.lines.append)
        self.server.sessions.poll_s = 0.5
        self.network = self.make_network(self.server.sessions, self.kit, port)
        self.leader = self.start(self.server.run)
        return self.server

    def start_site(self, name, chosen=None, **options):
        data = read_datamodule([self.config], [])
        exchange = self.network.dial(name, self.lines.append)
        site = SiteRun(
            data,
            chosen or self.roster[name],
            Tls.read(self.kit / name).secret,
            self.folder / name,
            Caller(exchange),
            say=self.lines.append,
            **options,
        )
        site.exchange = exchange
        site.thread = self.start(site.run)
        return site

    def start(self, run):
        def guarded():
            torch.set_num_threads(1)  # which decides about last bits, and is each thread's own
            try:
                run()
            except Exception as error:
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def kill_server(self, step):
        """Let the server die as it begins a step, its port with it; return its last half."""
        server, killed = self.server, threading.Event()

        def die(present, number):
            if number == step:
                server.sessions.close = lambda *_: None
                killed.set()
                raise RuntimeError("killed")
            return run_step(present, number)

        assert server._is_set_up.wait(60)
        run_step, server.engine.run_step = server.engine.run_step, die
        assert killed.wait(60)
        self.network.stop(0)
        self.leader.join(120)
        return read_checkpoint(self.folder / "served" / "checkpoints" / "last.ckpt")

    def finish(self, *sites):
        self.leader.join(120)
        assert not self.leader.is_alive(), (self.errors, self.lines[-5:])
        for site in sites:
            site.thread.join(60)
            site.exchange.close()
        self.network.stop()

    def tensors(self, *sites):
        found = {f"parties.{n}": t for n, t in self.server.engine.parties.state_dict().items()}
        for site in sites:
            found |= site.half.get_state()["state_dict"]
        return found
