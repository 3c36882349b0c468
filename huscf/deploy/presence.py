"""Who takes part in a step: clients whose sites are there, and that do not rest."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .server_run import ServerRun


class Presence:
    """Knows who is there, and waits for others.

    Args:
        run: Whose sites they are.
    """

    def __init__(self, run: "ServerRun") -> None:
        self.run = run
        self._resting: set[int] = set()

    def draw_resting(self) -> None:
        """Choose who rests in an epoch: as in one process, among those that are there."""
        run, attendance = self.run, self.run.config.attendance
        every, present = run.engine.plan.client_ids, run.engine.present_clients()
        enrolled = attendance.list_enrolled(every, run.epoch)
        drawn = attendance.draw([c for c in enrolled if c in present], run.epoch, run.seed)
        self._resting = ({*every} - {*enrolled}) | ({*present} - {*drawn})

    def list_active(self) -> list[int]:
        """Return the clients that are there and do not rest, ascending."""
        return [c for c in self.run.engine.present_clients() if c not in self._resting]

    def wait_for_all(self, timeout_s: float | None) -> bool:
        """Wait for all sites; return whether they have come."""
        sessions, roster = self.run.sessions, self.run.roster
        return self._wait(lambda: len(sessions.present()) == len(roster), timeout_s)

    def wait_for_enough(self) -> bool:
        """Wait until enough clients are there; return whether they have come in time."""
        run, wait_s = self.run, self.run.config.sites.wait_timeout_s
        at_most = len(run.engine.plan.client_ids) - len(self._resting)
        needed = min(run.min_clients, at_most)
        if (count := len(self.list_active())) >= needed:
            return True
        run.say(
            f"step {run.step}: {count} clients are there, {needed} are needed; waiting up to "
            f"{wait_s:g} s"
        )
        return self._wait(lambda: len(self.list_active()) >= needed, wait_s)

    def _wait(self, is_enough: Callable[[], bool], timeout_s: float | None) -> bool:
        started = time.monotonic()
        is_there = self.run.sessions.wait_for(is_enough, timeout_s)
        self.run.engine.count_wait("sites", time.monotonic() - started)
        return is_there
