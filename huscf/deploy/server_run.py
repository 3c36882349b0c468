"""A run at the server: rounds of steps with the sites that are there, figures, and its own half."""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..callbacks.run_folder import write_yaml
from ..engines import StepResult
from ..engines.remote import PROTOCOL, RemoteEngine, Sessions
from ..errors import CheckpointError, HuscfError, check_complete
from ..methods import Method, build_networks, request_plan
from ..models import Network, SampleShape
from ..parties import Server
from ..provenance import note_start
from ..split import CutPlan
from ..training import FORMAT
from ..training.checkpoint_checks import add_fresh, check_same_network
from ..wire.frames import Frame
from .halves import Folder
from .run_config import RunConfig
from .server_report import ServerReport, read_figures


class Stopped(HuscfError):
    """A run that ended before its time; what there is of it is saved."""


class ServerRun:
    """Holds the server's half and leads the run; sites come and go.

    Args:
        config: What is trained.
        roster: Clients by name of a site.
        folder: Of the run.
        saved: The half from which it goes on; None begins.
        say: Prints a line.

    Attributes:
        sessions: What answers the sites.
        have_saved: Sites that have a half of this run; others begin.
        engine: Made once all sites have said how much data they have.
    """

    engine: RemoteEngine

    def __init__(
        self,
        config: RunConfig,
        roster: Mapping[str, tuple[int, ...]],
        folder: Path,
        saved: dict[str, Any] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.config, self.roster, self.folder, self.say = config, dict(roster), folder, say
        self.seed, self.num_rounds, self.step, self.epoch = config.seed, 0, 0, 0
        self.run_id = secrets.token_hex(8)
        self.report = ServerReport(folder, self.roster)
        self._said = time.monotonic()
        self._joined: dict[str, dict[str, Any]] = {}
        self._is_set_up = threading.Event()
        self.steps_per_epoch: int | None = None
        self.have_saved: set[str] = set()
        self.sessions = Sessions(
            roster, lambda name, frame: self._answer(name, frame), self._welcome, self._note
        )
        self._saved = saved
        self.newcomers = _check_saved(saved, self.roster) if saved is not None else []
        if saved is not None:
            self.shape = SampleShape(*saved["huscf"]["server"]["shape"])
            if not self.newcomers:
                self._go_on(saved)
                self._open()

    @property
    def method(self) -> Method:
        """Return the method."""
        return self.config.method

    @property
    def server(self) -> Server:
        """Return the server's party."""
        return self.engine.server

    def run(self) -> None:
        """Train to the end.

        Raises:
            Stopped: Where too few clients are there for too long.
            HuscfError: Where a client sends what is not finite and that stops the run.
        """
        try:
            if not self._is_set_up.is_set():
                self._wait_for(self.newcomers or list(self.roster))
                if self._saved is None:
                    self._set_up({n: own["clients"] for n, own in self._joined.items()})
                else:
                    self._go_on(self._saved)
                self._open()
            self._train()
        except Stopped as stop:
            self._close(str(stop))
            raise
        except HuscfError as error:
            self._close(f"the run has stopped: {error}")
            raise
        except BaseException:
            self._close("the server has stopped")
            raise
        self._close("the run has ended")

    # Setting up

    def _wait_for(self, names: list[str]) -> None:
        self.say(f"waiting for {len(names)} sites: {', '.join(names)}")
        self.sessions.wait_for(lambda: self._joined.keys() >= {*names}, None)

    def _set_up(self, sizes: Mapping[str, list[list[int]]], known: CutPlan | None = None) -> None:
        """Make networks, cuts and the server's blocks, once the clients' data are known.

        Args:
            sizes: Samples and batch size of every client by site.
            known: Cuts of clients that have some already.
        """
        every = {
            client_id: pair
            for name, own in self.roster.items()
            for client_id, pair in zip(own, sizes[name], strict=True)
        }
        self.sizes = {name: [list(pair) for pair in own] for name, own in sizes.items()}
        client_sizes = {c: every[c][0] for c in sorted(every)}
        batch_sizes = {c: every[c][1] for c in sorted(every)}
        config = self.config
        networks = build_networks(self.method, self.shape, self.seed)
        self.weights = digest_weights(networks)
        plan = known
        if plan is None or plan.client_ids != sorted(every):
            request = request_plan(self.method, networks, self.shape, batch_sizes, self.seed)
            plan = config.plan.make_plan(request)
        if known is not None:
            entries = (known.by_client.get(own.client_id, own) for own in plan.clients)
            plan = CutPlan(known.blocks, tuple(entries))
        self.engine = RemoteEngine(
            self.method,
            networks,
            plan,
            self.shape,
            client_sizes,
            server_gradient=config.server_gradient,
            on_nonfinite=config.on_nonfinite,
            seed=self.seed,
            batch_sizes=batch_sizes,
            timeout_s=config.sites.step_timeout_s,
        )
        self.engine.sessions = self.sessions
        self.engine.server.train()
        longest = max(-(-size // batch_sizes[c]) for c, size in client_sizes.items())
        # An epoch stays as long as it was, though sites with more data may have joined.
        self.steps_per_epoch = config.sites.steps_per_epoch or self.steps_per_epoch or longest
        config.federation.begin(self)
        self.engine.observer = config.federation.observer
        least = config.sites.min_clients
        self.min_clients = min(2 if least is None else least, len(every))

    def _open(self) -> None:
        """Write what is to be trained, and welcome the sites."""
        write_yaml(self.folder / "config.yaml", self.config.values)
        self.engine.plan.save(self.folder / "plan.yaml")
        note_start(self.folder, self.num_rounds)
        self._saved = None  # a whole checkpoint, which nobody needs any more
        self._is_set_up.set()
        self.sessions.wake()

    def _welcome(self, name: str, header: dict[str, Any]) -> dict[str, Any] | None:
        """Return what a site needs to know, or None while that is not known."""
        shape, sizes = self._check_join(name, header)
        self._joined[name] = header
        self.sessions.wake()
        if not self._is_set_up.is_set():
            return None
        plan = self.engine.plan
        if sizes != self.sizes[name]:
            raise HuscfError(
                f"other data than the run began with: {sizes}, then {self.sizes[name]}"
            )
        return {
            "run": self.run_id,
            "method": self.config.method_values,
            "seed": self.seed,
            "shape": shape,
            "blocks": [list(pair) for pair in plan.blocks],
            "cuts": [[c, plan.by_client[c].cuts.as_list()] for c in self.roster[name]],
            "weights": self.weights,
            "step": self.step,
            "new": name not in self.have_saved,
        }

    def _check_join(self, name: str, header: dict[str, Any]) -> tuple[list[int], list[list[int]]]:
        """Return the run's shape and a site's sizes, once they fit those of the others."""
        if header["protocol"] != PROTOCOL:
            raise HuscfError(
                f"this site speaks protocol {header['protocol']} (huscf {header['version']:.20}), "
                f"the server {PROTOCOL} (huscf {version('huscf')}): install the same version"
            )
        sizes, shape = header["clients"], header["shape"]
        are_pairs = all(
            isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
            for pair in sizes
        )
        if not are_pairs or not all(1 <= batch <= size < 1 << 40 for size, batch in sizes):
            raise HuscfError("a client has one or more samples, and a batch no larger")
        if len(sizes) != len(self.roster[name]):
            raise HuscfError(
                f"{name} has data of {len(sizes)} clients, the roster {len(self.roster[name])}: "
                "set data.init_args.clients_per_domain, or mend roster.yaml"
            )
        if len(shape) != 3 or not all(type(n) is int and 0 < n < 1 << 16 for n in shape):
            raise HuscfError("a sample's shape is channels, side and number of classes")
        known = getattr(self, "shape", None)
        if known is None:
            self.shape = known = SampleShape(*shape)
        if (known.channels, known.image_size) != (shape[0], shape[1]):
            raise HuscfError(
                f"its samples have {shape[0]} channels and {shape[1]} pixels a side, those of the "
                f"run {known.channels} and {known.image_size}: set data.init_args.channels and "
                "image_size"
            )
        if shape[2] > known.num_classes:
            if self._is_set_up.is_set() or self._saved is not None:
                raise HuscfError(f"it has {shape[2]} classes, the run {known.num_classes}")
            self.shape = known = SampleShape(shape[0], shape[1], shape[2])
        return [known.channels, known.image_size, known.num_classes], sizes

    # Training

    def _train(self) -> None:
        if not self.step:
            self._wait_for_sites(lambda: len(self.sessions.present()) == len(self.roster), None)
        elif not self._wait_for_sites(
            lambda: len(self.sessions.present()) == len(self.roster),
            self.config.sites.wait_timeout_s,
        ):
            self.say("some sites have not come back; going on without them")
        while not self._is_over():
            while not self._is_epoch_over():
                self._wait_for_enough()
                self._add(self.engine.run_step(self.engine.present_clients(), self.step))
                self.step += 1
                if self.step == self.config.max_steps:
                    break
            self.epoch += 1
            federation = self.config.federation
            if federation.should_federate(self.epoch - 1) or self._is_over():
                self._end_round()
        self._let_draw()
        self.say(f"{self.num_rounds} rounds, {self.step} steps; run folder: {self.folder}")

    def _is_over(self) -> bool:
        limits = (self.config.max_epochs, self.config.max_steps)
        return self.epoch >= limits[0] >= 0 or self.step >= limits[1] >= 0

    def _is_epoch_over(self) -> bool:
        return self.step >= (self.epoch + 1) * self.steps_per_epoch

    def _wait_for_sites(self, is_enough: Callable[[], bool], timeout_s: float | None) -> bool:
        started = time.monotonic()
        is_there = self.sessions.wait_for(is_enough, timeout_s)
        waited = self.engine.waited_s
        waited["sites"] = waited.get("sites", 0.0) + time.monotonic() - started
        return is_there

    def _wait_for_enough(self) -> None:
        """Wait until enough clients are there; save and stop where they do not come."""
        if len(self.engine.present_clients()) >= self.min_clients:
            return
        wait_s = self.config.sites.wait_timeout_s
        self.say(
            f"step {self.step}: {len(self.engine.present_clients())} clients are there, "
            f"{self.min_clients} are needed; waiting up to {wait_s:g} s"
        )
        if not self._wait_for_sites(
            lambda: len(self.engine.present_clients()) >= self.min_clients, wait_s
        ):
            self.save()
            raise Stopped(
                f"too few clients for {wait_s:g} s: the run is saved at step {self.step}; go on "
                "with --ckpt_path last"
            )

    def _add(self, result: StepResult) -> None:
        self.report.add(result)
        if time.monotonic() - self._said >= self.config.sites.progress_s:
            self._said = time.monotonic()
            figures = ", ".join(f"{n} {v:.3f}" for n, v in result.losses.items())
            self.say(f"round {self.num_rounds + 1}, step {self.step + 1}: {figures}")

    def _end_round(self) -> None:
        result = self.config.federation.end_round(self, self._is_over())
        for line in result.warnings:
            self.say(line)
        every = self.config.evaluate_every_n_rounds
        if every >= 0 and (self._is_over() or (every and self.num_rounds % every == 0)):
            result.figures |= self._evaluate()
        self.say(
            self.report.write_round(result, self.epoch - 1, self.step, self.engine, self.sessions)
        )
        self.save()

    def _evaluate(self) -> dict[str, float]:
        """Let the sites measure what their clients generate; return the figures that they tell."""
        self.say(f"round {self.num_rounds}: sites measure their samples")
        command = {
            "kind": "evaluate",
            "num_per_class": self.config.num_per_class,
            "full": self._is_over(),
        }
        started = time.monotonic()
        answers = self.engine.let_sites_draw(command, self.config.sites.evaluation_timeout_s)
        self.engine.waited_s["evaluation"] = time.monotonic() - started
        return {k: v for name, a in answers.items() for k, v in read_figures(name, a).items()}

    def _let_draw(self) -> None:
        """Let the sites that want samples of the finished run draw them."""
        command = {"kind": "sample", "clusters": sorted(self.engine.clusters.items())}
        self.engine.let_sites_draw(command, self.config.sites.evaluation_timeout_s)

    # Saving

    def save(self) -> None:
        """Let every site that is there save its half, then save the server's."""
        present = self.sessions.present()
        commands = {name: {"kind": "save", "step": self.step} for name in present}
        answers = self.sessions.call(commands, self.config.sites.step_timeout_s)
        self.have_saved |= answers.keys()
        if missing := [name for name in present if name not in answers]:
            self.say(f"step {self.step}: not saved by {', '.join(missing)}")
        Folder(self.folder / "checkpoints").write(self.step, self._get_state(), last=True)

    def _get_state(self) -> dict[str, Any]:
        state_dict = {f"parties.{n}": t for n, t in self.engine.parties.state_dict().items()}
        run = {
            "run_id": self.run_id,
            "sizes": self.sizes,
            "shape": [self.shape.channels, self.shape.image_size, self.shape.num_classes],
            "roster": {name: list(own) for name, own in self.roster.items()},
            "step": self.step,
            "epoch": self.epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "have_saved": sorted(self.have_saved),
            **self.report.get_state(),
            "federation": self.config.federation.state_dict(),
        }
        huscf = {
            "format": FORMAT,
            "method": type(self.method).__name__,
            "engine": self.engine.get_state(),
            "num_rounds": self.num_rounds,
            "torch_rng": torch.get_rng_state(),
            "server": run,
        }
        return {
            "state_dict": state_dict,
            "huscf": huscf,
            "huscf_config": self.config.values,
            "global_step": self.step,
        }

    def _go_on(self, saved: dict[str, Any]) -> None:
        """Take over a saved half; sites that it does not know begin."""
        huscf = saved["huscf"]
        run = huscf["server"]
        self.run_id, self.step, self.epoch = run["run_id"], run["step"], run["epoch"]
        self.num_rounds, self.steps_per_epoch = huscf["num_rounds"], run["steps_per_epoch"]
        self.have_saved = set(run["have_saved"])
        self.report.set_state(run)
        self.config.federation.load_state_dict(run["federation"])
        sizes = run["sizes"] | {name: self._joined[name]["clients"] for name in self.newcomers}
        self._set_up(sizes, CutPlan.from_dict(huscf["engine"]["plan"]))
        fresh = self.engine.set_structure(huscf["engine"], may_join=True)
        tensors = {n.removeprefix("parties."): t for n, t in saved["state_dict"].items()}
        parties = self.engine.parties
        tensors = add_fresh(tensors, parties.state_dict(), fresh)
        check_same_network(tensors, parties.state_dict())
        parties.load_state_dict(tensors)
        self.engine.make_optimizers()
        self.engine.set_optimizers(huscf["engine"]["optimizers"])
        torch.set_rng_state(huscf["torch_rng"])

    # Answering

    def _answer(self, name: str, frame: Frame) -> Any:
        return self.engine.answer(name, frame)

    def _note(self, name: str, event: str) -> None:
        self.say(f"step {self.step}: {name} {event}")

    def _close(self, reason: str) -> None:
        self.sessions.close(reason, 10.0)


def _check_saved(saved: Mapping[str, Any], roster: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the sites that a saved half does not know.

    Raises:
        CheckpointError: Where it is of another kind of run, or its sites are not in the roster.
    """
    huscf = saved["huscf"]
    if "server" not in huscf:
        raise CheckpointError("the checkpoint is of a run in one process: huscf fit goes on")
    run = huscf["server"]
    expected = ("run_id", "sizes", "shape", "roster", "step", "epoch", "steps_per_epoch")
    check_complete(run, (*expected, "have_saved", "federation"))
    for name, own in run["roster"].items():
        if roster.get(name) != tuple(own):
            raise CheckpointError(
                f"the checkpoint is of other sites than roster.yaml names: there {name} has "
                f"clients {list(own)}; sites may be added, not taken out"
            )
    return [name for name in roster if name not in run["roster"]]


def digest_weights(networks: Mapping[str, Network]) -> str:
    """Return a hash of the weights from which everybody starts."""
    digest = hashlib.blake2b(digest_size=12)
    for network in networks.values():
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
