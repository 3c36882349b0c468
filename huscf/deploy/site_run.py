"""A run at a site: its own data and half, and what the server asks of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..datamodules import FederatedDataModule
from ..datamodules.client_batches import ClientBatches
from ..engines.private.budget import RecordBudget
from ..engines.remote import (
    SUM_COMMANDS,
    Caller,
    Dismissed,
    Dropped,
    PrivateSiteHalf,
    Rejoin,
    SiteHalf,
    SiteMembers,
    fetch_drawn,
)
from ..errors import CheckpointError, HuscfError
from ..randomness import derive_seed
from ..training import FORMAT
from ..trust import Trust
from ..wire import DefendedWire
from .halves import Folder
from .ledger import Ledger
from .site_device import SiteDevice
from .site_generator import write_generator
from .site_privacy import begin_budget, check_sampling, describe_spent, draw_seed
from .site_samples import SiteData, SiteSampler, evaluate_site, write_site_samples
from .welcome import Welcome, check_promised, read_welcome


class SiteRun:
    """Holds a site's half, and does what the server asks until it says goodbye.

    Args:
        data: The site's own; its clients are this site's clients in the run.
        chosen: Those of the data's clients that are this site's, by their number; None is all.
        secret: Seeds what its clients draw; None leaves that to the run's seed.
        folder: Where the half is kept, in a folder of the run's name.
        caller: The way to the server.
        device: What this machine can do.
        trust: What the method that the server names may be made of.
        num_samples: So many of each client and class are drawn when the run ends; 0 are none.
        say: Prints a line.
        max_epsilon: The site takes no step that would exceed it, whatever the server says, and
            no part in a run without differential privacy; None leaves that to the run.
    """

    half: SiteHalf
    budget: RecordBudget | None
    kept: Folder
    members: SiteMembers
    is_secure: bool

    def __init__(
        self,
        data: FederatedDataModule,
        chosen: Sequence[int] | None,
        secret: str | None,
        folder: Path,
        caller: Caller,
        device: SiteDevice | None = None,
        trust: Trust | None = None,
        num_samples: int = 0,
        say: Callable[[str], None] = print,
        max_epsilon: float | None = None,
    ) -> None:
        self.max_epsilon = max_epsilon
        data.keeps_class_numbers = True
        self.data, self.secret, self.folder, self.caller = data, secret, folder, caller
        self.device, self.trust = device or SiteDevice(), trust or Trust()
        self.num_samples, self.say = num_samples, say
        every = {client.client_id: client for client in data.clients}
        wanted = list(every) if chosen is None else list(chosen)
        if unknown := [c for c in wanted if c not in every]:
            raise HuscfError(f"--clients {unknown[0]}: the data have clients {list(every)}")
        self._own = [every[c] for c in wanted]
        self.num_steps, self._has_drawn = 0, False
        self._promised: Mapping[str, Any] | None = None
        self._said = time.monotonic()

    def run(self) -> str:
        """Take part until the end; return the server's goodbye.

        Raises:
            HuscfError: Where the server cannot be reached or refuses this site.
        """
        try:
            while True:
                try:
                    self._set_up(self.caller.join(self._describe()))
                    self._obey()
                except Rejoin:
                    self.say("the server was started anew: joining again")
        except Dismissed as goodbye:
            return str(goodbye)

    def _describe(self) -> dict[str, Any]:
        """Return what the server is told of this site: sizes, and how samples look."""
        shape = self.data.sample_shape
        sizes = [[len(c), min(self.data.batch_size, len(c))] for c in self._own]
        dims = [shape.channels, shape.image_size, shape.num_classes]
        device = self._measure()
        return {"version": version("huscf"), "clients": sizes, "shape": dims, "device": device}

    def _measure(self) -> dict[str, Any] | None:
        """Return what the machine and its link can do, as far as that is told."""
        figures = self.device.describe(self.caller.probe)
        if figures is not None and self.device.calibrates:
            self.say(", ".join(f"{name} {value:g}" for name, value in figures.items()))
        return figures

    def _set_up(self, said: Mapping[str, Any]) -> None:
        """Make the own half as the server says, and go on from where the run stands."""
        own = self.data.sample_shape
        welcome = read_welcome(said, own, len(self._own), self.trust, self.max_epsilon)
        check_promised(self._promised or said, said)
        self._promised, seed = said, said["seed"]
        self.is_secure, self.caller.compression = said["secure"], welcome.compression
        self.clients = {
            c: replace(own, client_id=c) for c, own in zip(welcome.order, self._own, strict=True)
        }
        self.noise_seed = seed_of(self.secret, min(self.clients), seed)
        self.kept = Folder(self.folder / said["run"])
        self._make_half(welcome, seed)
        if changes := ", ".join(f"{name} {value}" for name, value in welcome.wire.items() if value):
            self.say(f"what crosses is changed: {changes}")
        self.members = SiteMembers(self.half)
        self._run_values = {"method": said["method"], "seed": seed}
        self._go_on(said["step"], said["new"])

    def _make_half(self, welcome: Welcome, seed: int) -> None:
        sizes = {c: min(self.data.batch_size, len(own)) for c, own in self.clients.items()}
        seeds = {c: seed_of(self.secret, c, seed) for c in self.clients}
        given = (
            *(welcome.method, welcome.networks, welcome.plan, welcome.shape, seeds, sizes),
            *(partial(DefendedWire, **welcome.wire), welcome.comparison),
        )
        check_sampling(self.data.sampling, welcome.privacy)
        self.batch_seed, self.budget = self.data.seed, None
        if welcome.privacy is None:
            self.half = SiteHalf(*given)
        else:
            records = {c: len(own) for c, own in self.clients.items()}
            self.budget = begin_budget(welcome.privacy, sizes, records, self.kept.path)
            self.batch_seed = draw_seed()
            self.half = PrivateSiteHalf(*given, budget=self.budget, noise_seed=self.batch_seed)
        self.half.may_move = welcome.said["replans"]
        if self.secret is not None:
            for wire in self.half.wires.values():
                wire.run_seed = draw_seed()  # the noise of another session is not met again

    def _say_spent(self) -> None:
        if self.budget is not None:
            self.say(describe_spent(self.budget))

    def _go_on(self, step: int, is_new: bool) -> None:
        """Take over the newest half that is not after the server's; a new site has none."""
        own = self.kept.newest_until(step)
        if own is None and step and not is_new:
            raise CheckpointError(
                f"the run stands at step {step}, and {self.kept.path} has no half of this site: "
                "give the folder of its last run with --output"
            )
        if own is not None:
            saved = self.kept.read(own)
            state = saved["huscf"].get("site", {})
            if state.get("digests") != self._digests():
                raise CheckpointError(f"{self.kept.file(own)} was made with other data: give those")
            Ledger(self.kept.path).check_kept(state.get("budget", {}))
            self.half.set_state({**state, "state_dict": saved["state_dict"]}, self.caller.ask)
        self.kept.forget_after(step)
        clients = " ".join(map(str, self.clients))
        where = "its beginning" if own is None else f"its half of step {own}"
        self.say(f"joined: clients {clients}; the run stands at step {step}, here {where}")
        self.say(f"averages: {'secure sums' if self.is_secure else 'the server sees every block'}")
        self.say(f"clients are compared {self.half.comparison.explain()}")
        self._say_spent()

    def _obey(self) -> None:
        """Do what the server asks, again and again."""
        answers, answer = 0, None  # type: int, dict[str, Any] | None
        while True:
            command = self.caller.ask("ready", {"answers": answers, "answer": answer}).header
            if command["kind"] == "wait":
                answer = None
                continue
            answers, answer = command["number"], {}
            try:
                answer = self._do(command)
            except Dropped:
                self.say(f"{command['kind']}: too late, going on with the next")

    def _do(self, command: Mapping[str, Any]) -> dict[str, Any]:
        ask = self.caller.ask
        tasks: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
            "step": self._run_step,
            "close": lambda command: self.half.close(command, ask),
            "give": self._give,
            "take": lambda command: self.half.take(command, ask),
            "measure": lambda _: {"device": self._measure()},
            "move": self._move,
            "save": self._save,
            "evaluate": self._evaluate,
            "sample": self._draw,
            "keep": self._keep,
            **dict.fromkeys(SUM_COMMANDS, self._give),
        }
        return tasks[command["kind"]](command) or {}

    def _move(self, command: Mapping[str, Any]) -> None:
        self.half.move(command["cuts"], self.caller.ask)
        cuts = ", ".join(f"client {c}: {own}" for c, own in command["cuts"])
        self.say(f"new cuts: {cuts}")

    def _evaluate(self, command: Mapping[str, Any]) -> dict[str, Any]:
        sampler, count, full = self._make_sampler(), command["num_per_class"], command["full"]
        return {"figures": evaluate_site(sampler, self._own_data(), count, full, self.say)}

    def _give(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Give blocks, in the clear or as the member of a sum, as the run was said to be."""
        if command["kind"] == "give":
            if self.is_secure:
                raise HuscfError("the server asks for blocks in the clear, and the run is secure")
            self.half.give(command, self.caller.ask)
            return {}
        if not self.is_secure:
            raise HuscfError("the server asks for secure sums, and the run was said to have none")
        try:
            return self.members.answer(command, self.caller.ask)
        except HuscfError as error:  # as where too few members are left: no reason to leave
            self.say(f"{command['kind']}: {error}")
            return {}

    def _own_data(self) -> SiteData:
        return SiteData(list(self.clients.values()), self.data)

    def _make_sampler(self) -> SiteSampler:
        return SiteSampler(self.half, self.caller.ask, self.noise_seed)

    def _draw(self, command: Mapping[str, Any]) -> None:
        """Draw the samples that this site wants of the run."""
        if not self.num_samples or self._has_drawn:
            return
        self._has_drawn = True
        sampler, own, clusters = self._make_sampler(), self._own_data(), _read_clusters(command)
        if missing := self.clients.keys() - clusters.keys():
            raise HuscfError(f"the server names no cluster of client {min(missing)}")
        try:
            folder = write_site_samples(sampler, own, self.num_samples, clusters, self.kept.path)
        except (HuscfError, OSError) as error:
            self.say(f"no samples: {error}")
        else:
            self.say(f"samples: {folder}")

    def _keep(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Write a whole generator, of own blocks and those that the server hands out."""
        said = {**command, **self._run_values}
        try:
            engine = fetch_drawn(self.half, _read_clusters(command), self.caller.ask)
            path = write_generator(engine, self._own_data(), said, self.kept.path)
        except (HuscfError, OSError) as error:
            self.say(f"no whole generator: {error}")
            return {}
        self.say(f"a whole generator, for huscf generate: {path}")
        return {"has_kept": True}

    def _run_step(self, command: Mapping[str, Any]) -> None:
        step = command["step"]
        own = [self.clients[c] for c in command["clients"] if c in self.clients]
        if not own:
            raise HuscfError(f"the server asks for step {step} without clients of this site")
        batches = ClientBatches(
            own,
            self.data.batch_size,
            self.batch_seed,
            1,
            self.data.augmentation,
            self.data.label_sampling,
            sampling=self.data.sampling,
        )
        batches.load_state_dict({"step": step})
        losses = self.half.run_step(command, next(iter(batches)), self.caller.ask)
        self.num_steps += 1
        if not losses:
            self.say(f"step {step}: left out, being late or not finite")
        elif time.monotonic() - self._said >= 10.0 or self.num_steps == 1:
            self._said = time.monotonic()
            figures = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            sent, got = (count / 1e6 for count in self.caller.num_bytes)
            self.say(f"step {step + 1}: {figures}; sent {sent:.1f} MB, got {got:.1f} MB")

    def _save(self, command: Mapping[str, Any]) -> None:
        step, state = command["step"], self.half.get_state()
        tensors = state.pop("state_dict")
        site = {"step": step, "digests": self._digests(), **state}
        self.kept.write(step, {"state_dict": tensors, "huscf": {"format": FORMAT, "site": site}})
        self.say(f"saved step {step} in {self.kept.path}")
        self._say_spent()

    def _digests(self) -> list[str]:
        known = self.data.client_digests
        return [known[client.client_id] for client in self._own]


def seed_of(secret: str | None, client_id: int, shared: int) -> int:
    """Return the seed of what a client draws: from the site's secret, or the run's seed."""
    return shared if secret is None else derive_seed(shared, f"secret {secret}", client_id)


def _read_clusters(command: Mapping[str, Any]) -> dict[int, int]:
    return dict(command["clusters"])
