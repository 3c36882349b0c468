"""Simulates devices that become faster, slower or better connected during a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PlanError
from .fleet import ClientDevice, Fleet, load_mapping, scale_profile
from .profiles import read_figure, read_whole

_DRIFTING = {
    "speed": "speed_flops_per_s",
    "uplink": "uplink_bits_per_s",
    "downlink": "downlink_bits_per_s",
    "memory": "memory_bytes",
}


@dataclass(frozen=True)
class DriftEvent:
    """Devices that change at a round and stay so.

    Args:
        round: First round in which it holds.
        profile: Profile whose clients change, or None.
        client_id: The client that changes, or None.
        factors: Factor of each figure (speed, uplink, downlink, memory).
    """

    round: int
    profile: str | None
    client_id: int | None
    factors: Mapping[str, float]


@dataclass(frozen=True)
class DriftSchedule:
    """Simulates devices that change during a run.

    Args:
        events: In any order; the factors of several that hold multiply.
    """

    events: tuple[DriftEvent, ...]

    @classmethod
    def load(cls, path: str | Path) -> "DriftSchedule":
        """Read a YAML file {events: [{round, profile or client, speed_factor, ...}]}.

        Raises:
            PlanError: Naming the file, the event and the key at fault.
        """
        values = load_mapping(path)
        for key in values:
            if key != "events":
                raise PlanError(f"{path}: unknown key {key}; known: events")
        events = values.get("events")
        if not isinstance(events, list):
            raise PlanError(f"{path}: events is missing or not a list")
        return cls(tuple(_parse_event(e, f"{path}: events[{i}]") for i, e in enumerate(events)))

    def check(self, fleet: Fleet) -> None:
        """Check that the events are about devices and figures that the fleet has.

        Raises:
            PlanError: Naming the first event of a client or profile that is not in the fleet, or
                of the memory of one whose memory is not limited.
        """
        clients = [client.client_id for client in fleet.clients]
        profiles = sorted({client.profile.name for client in fleet.clients})
        for index, event in enumerate(self.events):
            for kind, name, known in (
                ("client", event.client_id, clients),
                ("profile", event.profile, profiles),
            ):
                if name is not None and name not in known:
                    raise PlanError(
                        f"drift: events[{index}]: the run has no {kind} {name}; it has "
                        + ", ".join(map(str, known))
                    )
            for client in fleet.clients if "memory" in event.factors else ():
                if _concerns(event, client) and client.profile.memory_bytes is None:
                    raise PlanError(
                        f"drift: events[{index}]: memory_factor: profile {client.profile.name} "
                        "has no memory_mib to multiply; give it one"
                    )

    def apply(self, round_index: int, fleet: Fleet) -> Fleet:
        """Return the fleet as it is in a round."""
        active = [event for event in self.events if event.round <= round_index]
        return Fleet(tuple(_drift(client, active) for client in fleet.clients), fleet.server)


def _parse_event(values: Any, owner: str) -> DriftEvent:
    if not isinstance(values, Mapping):
        raise PlanError(f"{owner}: must be a mapping")
    known = {"round", "profile", "client", *(f"{name}_factor" for name in _DRIFTING)}
    for key in values:
        if key not in known:
            raise PlanError(f"{owner}: unknown key {key}; known: {', '.join(sorted(known))}")
    if ("profile" in values) == ("client" in values):
        raise PlanError(f"{owner}: give either profile or client")
    if "round" not in values:
        raise PlanError(f"{owner}: round is missing")
    first = read_whole(values, "round", owner)
    client = read_whole(values, "client", owner) if "client" in values else None
    profile = values.get("profile")
    if "profile" in values and type(profile) not in (str, int, float):
        raise PlanError(f"{owner}: profile is {profile!r}, must be the name of a profile")
    names = [name for name in _DRIFTING if f"{name}_factor" in values]
    if not names:
        known_factors = ", ".join(f"{name}_factor" for name in _DRIFTING)
        raise PlanError(f"{owner}: nothing changes; give at least one of {known_factors}")
    factors = {name: read_figure(values, f"{name}_factor", owner) for name in names}
    # YAML reads some names as numbers; those of profiles are text.
    return DriftEvent(first, None if profile is None else str(profile), client, factors)


def _concerns(event: DriftEvent, client: ClientDevice) -> bool:
    return event.profile == client.profile.name or event.client_id == client.client_id


def _drift(client: ClientDevice, active: list[DriftEvent]) -> ClientDevice:
    profile = client.profile
    for event in active:
        if _concerns(event, client):
            factors = {_DRIFTING[name]: factor for name, factor in event.factors.items()}
            if profile.memory_bytes is None:
                factors.pop("memory_bytes", None)
            profile = scale_profile(profile, factors)
    return ClientDevice(client.client_id, profile, client.batch_size)
