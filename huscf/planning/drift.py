"""Simulates devices that become faster, slower or better connected during a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PlanError
from .fleet import ClientDevice, Fleet, load_mapping, scale_profile
from .profiles import read_number

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
        events = values.get("events")
        if not isinstance(events, list):
            raise PlanError(f"{path}: events is missing or not a list")
        return cls(tuple(_parse_event(e, f"{path}: events[{i}]") for i, e in enumerate(events)))

    def check(self, fleet: Fleet) -> None:
        """Raise a PlanError that names the first event of a client or profile not in the fleet."""
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
    first = read_number(values, "round", owner, can_be_zero=True)
    names = [name for name in _DRIFTING if f"{name}_factor" in values]
    factors = {name: read_number(values, f"{name}_factor", owner) for name in names}
    return DriftEvent(int(first), values.get("profile"), values.get("client"), factors)


def _drift(client: ClientDevice, active: list[DriftEvent]) -> ClientDevice:
    profile = client.profile
    for event in active:
        if event.profile == profile.name or event.client_id == client.client_id:
            factors = {_DRIFTING[name]: factor for name, factor in event.factors.items()}
            if profile.memory_bytes is None:
                factors.pop("memory_bytes", None)
            profile = scale_profile(profile, factors)
    return ClientDevice(client.client_id, profile, client.batch_size)
