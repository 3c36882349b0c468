"""A run at the server: rounds of steps with the sites that are there, figures, and its own half."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..callbacks.run_folder import write_yaml
from ..engines import StepResult
from ..engines.remote import (
    Comparison,
    LastAverages,
    PrivateRemoteEngine,
    RemoteEngine,
    Sessions,
    hand_out,
)
from ..errors import HuscfError, make_printable
from ..methods import Method, build_networks, request_plan
from ..models import SampleShape
from ..parties import Server
from ..provenance import note_start
from ..split import CutPlan, PlanRequest
from ..wire.frames import Frame, FrameError
from .halves import Folder
from .joining import Roll, digest_weights
from .ledger import Ledger, RoundLedger
from .presence import Presence
from .progress import ENDED, Progress
from .run_config import RunConfig
from .server_half import find_newcomers, get_half, read_shape, set_half
from .server_report import ServerReport, read_figures
from .site_planner import SitePlanner


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
        self._progress = Progress(config.sites.progress_s)
        self.newcomers = [] if saved is None else find_newcomers(saved, self.roster)
        self.roll = Roll(self.roster, None if saved is None else read_shape(saved))
        self.planner = SitePlanner(config.plan, config.replanning, self.roster)
        self._is_set_up = threading.Event()
        self.steps_per_epoch = 0
        self.have_saved: set[str] = set()
        self.sessions = Sessions(
            roster, lambda name, frame: self._answer(name, frame), self._welcome, self._note
        )
        self.sessions.compression = config.sites.compression
        self._saved = saved
        if saved is not None and not self.newcomers:
            set_half(self, saved)
            self._open()

    @property
    def method(self) -> Method:
        """Return the method."""
        return self.config.method

    @property
    def server(self) -> Server:
        """Return the server's party."""
        return self.engine.server

    @property
    def shape(self) -> SampleShape:
        """Return how samples look; known once a site has joined."""
        assert self.roll.shape is not None
        return self.roll.shape

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
                    self.set_up({name: self.roll.sizes_of(name) for name in self.roster})
                else:
                    set_half(self, self._saved)
                self._open()
            self._train()
        except Stopped as stop:
            self._close(str(stop))
            raise
        except HuscfError as error:
            is_told = not self._is_set_up.is_set() or self.engine.tells_losses
            self._close(
                f"the run has stopped{f': {error}' if is_told else ', its server knows why'}"
            )
            raise
        except BaseException:
            self._close("the server has stopped")
            raise
        self._close(ENDED)

    # Setting up

    def _wait_for(self, names: list[str]) -> None:
        if unused := self.config.unused:
            self.say(f"not used where sites train: {', '.join(unused)}")
        self.say(f"waiting for {len(names)} sites: {', '.join(names)}")
        self.sessions.wait_for(lambda: self.roll.joined.keys() >= {*names}, None)

    def set_up(self, sizes: Mapping[str, list[list[int]]], known: CutPlan | None = None) -> None:
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
            plan = self.planner.make_plan(request)
        if known is not None:
            entries = (known.by_client.get(own.client_id, own) for own in plan.clients)
            plan = CutPlan(known.blocks, tuple(entries))
        make_engine: type[RemoteEngine] | partial[PrivateRemoteEngine] = RemoteEngine
        if config.privacy is not None:
            keep = Ledger(self.folder).write
            make_engine = partial(PrivateRemoteEngine, privacy=config.privacy, keep=keep)
        self.engine = make_engine(
            self.method,
            networks,
            plan,
            self.shape,
            client_sizes,
            config.wire,
            server_gradient=config.server_gradient,
            on_nonfinite=config.on_nonfinite,
            seed=self.seed,
            batch_sizes=batch_sizes,
            timeout_s=config.sites.step_timeout_s,
        )
        if isinstance(self.engine, PrivateRemoteEngine):
            Ledger(self.folder).read_into(self.engine.budget)
        self.engine.sessions = self.sessions
        self.engine.server.train()
        longest = max(-(-size // batch_sizes[c]) for c, size in client_sizes.items())
        # An epoch stays as long as it was, though sites with more data may have joined.
        self.steps_per_epoch = config.sites.steps_per_epoch or self.steps_per_epoch or longest
        if (private := config.federation.private) is not None:
            self.engine.averages = LastAverages(self.engine, private)
            if self._saved is not None:
                RoundLedger(self.folder, private).read()
        config.attendance.check_clients(plan.client_ids)
        config.federation.begin(self)
        self.engine.observer = config.federation.observer
        self.engine.sends_sums = self._compare().shown == "statistics"
        least = config.sites.min_clients
        self.min_clients = min(2 if least is None else least, len(every))

    def _open(self) -> None:
        """Write what is to be trained, and welcome the sites."""
        if not self._describe_spent():
            self.engine.begin()
            self.config.federation.check_budget()
        if (private := self.config.federation.private) is not None:
            RoundLedger(self.folder, private).begin()
        write_yaml(self.folder / "config.yaml", self.config.values)
        self.engine.plan.save(self.folder / "plan.yaml")
        note_start(self.folder, self.num_rounds)
        self._saved = None  # a whole checkpoint, which nobody needs any more
        self._is_set_up.set()
        self.sessions.wake()

    def _welcome(self, name: str, header: dict[str, Any]) -> dict[str, Any] | None:
        """Return what a site needs to know, or None while that is not known."""
        is_open = self._is_set_up.is_set()
        self.planner.note(name, header["device"])
        self.roll.enter(name, header, may_add_classes=not is_open and self._saved is None)
        self.sessions.wake()
        if not is_open:
            return None
        if self.engine.averages is not None:
            self.engine.averages.note_join(self.roster[name])
        plan, shape, wire = self.engine.plan, self.shape, self.config.wire
        if (sizes := self.roll.sizes_of(name)) != self.sizes[name]:
            raise HuscfError(
                f"other data than the run began with: {sizes}, then {self.sizes[name]}"
            )
        return {
            "run": self.run_id,
            "method": self.config.method_values,
            "seed": self.seed,
            "shape": [shape.channels, shape.image_size, shape.num_classes],
            "blocks": [list(pair) for pair in plan.blocks],
            "cuts": [[c, plan.by_client[c].cuts.as_list()] for c in self.roster[name]],
            "weights": self.weights,
            "compression": self.sessions.compression,
            "wire": wire and {"clip": wire.clip, "noise": wire.noise, "bits": wire.bits},
            "step": self.step,
            "new": name not in self.have_saved,
            "secure": self.config.federation.secure,
            "comparison": asdict(self._compare()),
            "privacy": self.config.privacy and asdict(self.config.privacy),
            "replans": self.config.replanning.every_n_rounds > 0,
        }

    def _compare(self) -> Comparison:
        """Return what sites show, so that their clients can be compared."""
        federation = self.config.federation
        if federation.observer is None or federation.observe == "training":
            return Comparison("nothing")
        noise = federation.statistics_noise
        return Comparison(federation.observe, federation.observed_samples, noise)

    # Training

    def _train(self) -> None:
        presence = Presence(self)
        if not presence.wait_for_all(self.config.sites.wait_timeout_s if self.step else None):
            self.say("some sites have not come back; going on without them")
        self._progress.begin(self.step)
        while not self._is_over():
            presence.draw_resting()
            while not self._is_epoch_over():
                if not presence.wait_for_enough():
                    self.save()
                    raise Stopped(
                        f"too few clients for {self.config.sites.wait_timeout_s:g} s: the run is "
                        f"saved at step {self.step}; go on with --ckpt_path last"
                    )
                self.engine.num_rounds = self.num_rounds
                self._add(self.engine.run_step(presence.list_active(), self.step))
                self.step += 1
                if self._is_over():
                    break
            self.epoch += 1
            federation = self.config.federation
            ends_round = federation.should_federate(self.epoch - 1)
            is_last = self._is_over() or (ends_round and federation.is_last_round())
            if ends_round or is_last:
                self._end_round(is_last)
        self._settle()
        self._let_draw()
        if self.config.shares_generator:
            self._hand_out()
        if self.config.writes_page:
            self.say(f"page: {self.report.write_page()}")
        if spent := self._describe_spent():
            self.say(spent)
        self.say(f"{self.num_rounds} rounds, {self.step} steps; run folder: {self.folder}")

    def _settle(self) -> None:
        """Let clients end with the last average, where what they have trained since tells of them.

        That is so where the last round averaged nothing, or did not reach everybody.
        """
        if (averages := self.engine.averages) is None:
            return
        if averages.settle():
            self.save()
        if left := averages.list_unsettled():
            self.say(f"no samples and no generator of {', '.join(left)}: without the last average")

    def _is_over(self) -> bool:
        limits = (self.config.max_epochs, self.config.max_steps)
        return (
            self.epoch >= limits[0] >= 0
            or self.step >= limits[1] >= 0
            or bool(self._describe_spent())
        )

    def _describe_spent(self) -> str:
        """Return whose budget has ended the run, or nothing; one that begins needs some."""
        if self.step > 0 and self.engine.is_spent():
            return "the budget of model.privacy has no room for another step"
        if self.step > 0 and self.config.federation.is_spent():
            return "the budget of federation.privacy has no room for another round"
        return ""

    def _is_epoch_over(self) -> bool:
        return self.step >= (self.epoch + 1) * self.steps_per_epoch

    def _add(self, result: StepResult) -> None:
        self.report.add(result)
        if self._progress.is_due():
            config = self.config
            ends = (config.max_epochs * self.steps_per_epoch, config.max_steps)
            figures = ", ".join(f"{n} {v:.3f}" for n, v in result.losses.items())
            place = f"round {self.num_rounds + 1}, {self._progress.describe(self.step + 1, ends)}"
            self.say(f"{place}: {figures}")

    def _end_round(self, is_last: bool) -> None:
        result = self.config.federation.end_round(self, is_last)
        # A budget of rounds is not spent by one that averages nothing.
        result.is_last = is_last = self._is_over()
        for line in (*result.warnings, *self.engine.notes):
            self.say(line)
        self.engine.notes.clear()
        every = self.config.evaluate_every_n_rounds
        if every >= 0 and (is_last or (every and self.num_rounds % every == 0)):
            result.figures |= self._evaluate(is_last)
        self.planner.end_round(self, result)
        self.say(
            self.report.write_round(result, self.epoch - 1, self.step, self.engine, self.sessions)
        )
        self.save()

    def request_plan(self) -> PlanRequest:
        """Return what a plan of this run is made for."""
        engine = self.engine
        sizes = engine.batch_sizes
        return request_plan(self.method, engine.networks, self.shape, sizes, self.seed)

    def measure_devices(self) -> dict[str, Any]:
        """Return what the sites that are there measure now."""
        commands = {name: {"kind": "measure"} for name in self.sessions.present()}
        answers = self.sessions.call(commands, self.config.sites.step_timeout_s)
        figures = {name: answer.get("device") for name, answer in answers.items()}
        return {name: own for name, own in figures.items() if isinstance(own, dict)}

    def _evaluate(self, is_last: bool) -> dict[str, float]:
        """Let the sites measure what their clients generate; return the figures that they tell."""
        self.say(f"round {self.num_rounds}: sites measure their samples")
        command = {
            "kind": "evaluate",
            "num_per_class": self.config.num_per_class,
            "full": is_last,
        }
        started = time.monotonic()
        answers = self.engine.let_sites_draw(command, self.config.sites.evaluation_timeout_s)
        self.engine.waited_s["evaluation"] = time.monotonic() - started
        return {k: v for name, a in answers.items() for k, v in read_figures(name, a).items()}

    def _let_draw(self) -> None:
        """Let the sites that want samples of the finished run draw them."""
        command = {"kind": "sample", "clusters": sorted(self.engine.clusters.items())}
        self.engine.let_sites_draw(command, self.config.sites.evaluation_timeout_s)

    def _hand_out(self) -> None:
        """Let the sites that are there have a whole generator."""
        said = {"rounds": self.num_rounds, "step": self.step}
        keepers = hand_out(self.engine, said, self.config.sites.evaluation_timeout_s)
        self.say(f"a whole generator is at {', '.join(keepers) or 'no site'}")

    # Saving

    def save(self) -> None:
        """Let every site that is there save its half, then save the server's."""
        present = self.sessions.present()
        commands = {name: {"kind": "save", "step": self.step} for name in present}
        answers = self.sessions.call(commands, self.config.sites.step_timeout_s)
        self.have_saved |= answers.keys()
        saved = [c for name in answers for c in self.roster[name]]
        self.engine.blocks.forget_owed(saved)
        if self.engine.averages is not None:
            self.engine.averages.note_saved(saved)
        if missing := [name for name in present if name not in answers]:
            self.say(f"step {self.step}: not saved by {', '.join(missing)}")
        Folder(self.folder / "checkpoints").write(self.step, get_half(self), last=True)

    # Answering

    def _answer(self, name: str, frame: Frame) -> Any:
        if not self._is_set_up.is_set():
            raise FrameError(f"{frame.header['kind']}: the run has not begun")
        return self.engine.answer(name, frame)

    def _note(self, name: str, event: str) -> None:
        self.say(f"step {self.step}: {name} {make_printable(' '.join(event.split())):.300}")

    def _close(self, reason: str) -> None:
        self.sessions.close(reason, 10.0)
