"""Plans for the devices that sites say they have, and again when these have changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..callbacks import Replanning
from ..engines import Move
from ..errors import HuscfError, PlanError
from ..planning import (
    ClientDevice,
    Fleet,
    PlanSubject,
    SearchedPlan,
    ServerProfile,
    calibrate_profile,
    measure_latency,
    parse_profiles,
)
from ..split import CutPlan, PlanRequest, PlanSource
from ..training import RoundResult
from .site_device import NEEDED

if TYPE_CHECKING:
    from .server_run import ServerRun


class SitePlanner:
    """Knows the sites' devices.

    Args:
        source: Where cuts come from; devices matter to a SearchedPlan alone.
        replanning: When the plan is reconsidered.
        roster: Clients by name of a site.

    Attributes:
        figures: What each site has said of its device.
    """

    def __init__(
        self, source: PlanSource, replanning: Replanning, roster: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.source, self.replanning, self.roster = source, replanning, roster
        self.figures: dict[str, dict[str, Any]] = {}
        self._server: ServerProfile | None = None

    @property
    def needs_devices(self) -> bool:
        """Return whether there is no plan without what sites say of their devices."""
        return isinstance(self.source, SearchedPlan) and self.source.devices is None

    def note(self, site: str, figures: dict[str, Any] | None) -> None:
        """Take down what a site says of its device.

        Raises:
            HuscfError: Where that is not enough to plan with, or malformed.
        """
        if figures is not None:
            parse_profiles({site: figures})
            self.figures[site] = figures
        if self.needs_devices and site not in self.figures:
            raise HuscfError(
                "the run's cuts follow from what its devices can do: start this site with "
                f"--calibrate, or give {', '.join(NEEDED)} below device: in its configuration"
            )

    def make_plan(self, request: PlanRequest) -> CutPlan:
        """Return the cuts of a run that begins, or that new sites have joined."""
        if not isinstance(self.source, SearchedPlan) or not self.figures:
            return self.source.make_plan(request)
        return self.source.plan_for(request, self._make_fleet(request.batch_sizes, request.seed))

    def end_round(self, run: "ServerRun", result: RoundResult) -> None:
        """Measure, reconsider the plan where it is time for that, and report its latency."""
        if not isinstance(self.source, SearchedPlan):
            return
        moves: tuple[Move, ...] = ()
        if self.replanning.should_replan(result.number) and not result.is_last:
            for site, figures in run.measure_devices().items():
                try:
                    self.note(site, figures)
                except HuscfError as error:
                    run.say(f"{site}: {error}")
            moves = self._replan(run, result)
        result.figures["plan/moved_mbytes"] = sum(move.num_bytes for move in moves) / 1e6
        fleet, options = self._find_fleet(run), self.source.make_options(run.seed)
        assert self.source.subject is not None
        latency = measure_latency(run.engine.plan, self.source.subject, fleet, options)
        result.figures["plan/latency_s"] = latency

    def _replan(self, run: "ServerRun", result: RoundResult) -> tuple[Move, ...]:
        assert isinstance(self.source, SearchedPlan)
        every, fleet = run.engine.plan.client_ids, self._find_fleet(run)
        if result.compares_clients and run.engine.present_clients() != every:
            # With some of the new cuts alone, clients might have nothing to be compared by.
            run.say(f"round {result.number}: cuts kept: not all sites are there")
            return ()
        steps = max(1, run.step * self.replanning.every_n_rounds // result.number)
        try:
            decision = self.replanning.decide(run, self.source, fleet, result, steps)
        except PlanError as error:
            run.say(f"round {result.number}: cuts kept: {error}")
            return ()
        return self.replanning.apply(run, decision, run.folder, run.say)

    def _find_fleet(self, run: "ServerRun") -> Fleet:
        """Return the present devices; after a new start the networks are measured again."""
        assert isinstance(self.source, SearchedPlan)
        if self.source.subject is None:
            precision = self.source.make_options(run.seed).precision
            self.source.subject = PlanSubject.measure(run.request_plan(), precision)
        return self._make_fleet(run.engine.batch_sizes, run.seed)

    def _make_fleet(self, batch_sizes: Mapping[int, int], seed: int) -> Fleet:
        """Return every client's device: its site's, or that of the devices file."""
        assert isinstance(self.source, SearchedPlan)
        known: dict[int, ClientDevice] = {}
        base: Fleet | None = None
        if self.source.devices is not None:
            base = self.source.devices.make_fleet(batch_sizes, self.source.make_options(seed).seed)
            known = dict(base.by_client)
        for site, figures in self.figures.items():
            profile = parse_profiles({site: figures})[site]
            # Clients of one site take turns on its machine and link.
            share = len(self.roster[site])
            memory = profile.memory_bytes
            profile = replace(
                profile,
                speed_flops_per_s=profile.speed_flops_per_s / share,
                uplink_bits_per_s=profile.uplink_bits_per_s / share,
                downlink_bits_per_s=profile.downlink_bits_per_s / share,
                memory_bytes=None if memory is None else memory / share,
            )
            for client_id in self.roster[site]:
                known[client_id] = ClientDevice(client_id, profile, batch_sizes[client_id])
        if missing := sorted(batch_sizes.keys() - known.keys()):
            raise PlanError(f"nobody has said what the device of client {missing[0]} can do")
        clients = tuple(known[c] for c in sorted(batch_sizes))
        return Fleet(clients, base.server if base else self._measure_server(clients))

    def _measure_server(self, clients: tuple[ClientDevice, ...]) -> ServerProfile:
        """Return this machine's speed; its link is taken to be no narrower than the clients'."""
        if self._server is None:
            speed = calibrate_profile(1.0, 1.0)["speed_gflops"] * 1e9
            self._server = ServerProfile(speed, 0.0, 0.0)
        up = sum(c.profile.uplink_bits_per_s for c in clients)
        down = sum(c.profile.downlink_bits_per_s for c in clients)
        return replace(self._server, uplink_bits_per_s=up, downlink_bits_per_s=down)
