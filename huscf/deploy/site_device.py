"""What a site's machine and link can do: as its configuration says, or as it measures itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engines.remote import MAX_PROBE
from ..errors import HuscfError
from ..planning import calibrate_profile, load_mapping, parse_profiles

#: Sends so many bytes up and gets so many back; returns the seconds that this took.
Probe = Callable[[int, int], float]

#: A frame that takes so long tells the rate of a link.
_LONG_S = 0.3
_FIRST_PROBE = 64 << 10
#: What a plan cannot do without.
NEEDED = ("speed_gflops", "uplink_mbit_per_s", "downlink_mbit_per_s")


@dataclass(frozen=True)
class SiteDevice:
    """A site's machine.

    Args:
        given: Figures with the names that a devices file has; these are not measured.
        calibrates: Whether the others are measured.

    Raises:
        PlanError: Naming the figure at fault.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    calibrates: bool = False

    def __post_init__(self) -> None:
        parse_profiles({"device": {**dict.fromkeys(NEEDED, 1.0), **self.given}})

    @classmethod
    def read(cls, configs: Sequence[Path], calibrates: bool) -> "SiteDevice":
        """Read the section `device` of a site's configuration, if it has one."""
        given: dict[str, Any] = {}
        for path in configs:
            section = load_mapping(path).get("device") or {}
            if not isinstance(section, dict):
                raise HuscfError(f"{path}: device: a mapping such as {{speed_gflops: 20}}")
            given |= section
        return cls(given, calibrates)

    def describe(self, probe: Probe) -> dict[str, Any] | None:
        """Return all figures, measuring those that are not given; None where some are not known.

        Args:
            probe: The way to the server.
        """
        known = dict(self.given)
        if self.calibrates:
            known = {**calibrate_profile(1.0, 1.0), **measure_link(probe), **known}
        return known if known.keys() >= {*NEEDED} else None


def measure_link(probe: Probe) -> dict[str, float]:
    """Return rates and round trip of the way to the server, by the time that frames take."""
    probe(0, 0)  # the first one dials
    round_trip_s = min(probe(0, 0) for _ in range(3))
    up = _measure_rate(lambda size: probe(size, 0), round_trip_s)
    down = _measure_rate(lambda size: probe(0, size), round_trip_s)
    return {
        "uplink_mbit_per_s": round(up / 1e6, 3),
        "downlink_mbit_per_s": round(down / 1e6, 3),
        "round_trip_ms": round(round_trip_s * 1e3, 3),
    }


def _measure_rate(send: Callable[[int], float], round_trip_s: float) -> float:
    """Return bits per second, of ever larger frames until one takes long."""
    size = _FIRST_PROBE
    while (seconds := send(size) - round_trip_s) < _LONG_S and size < MAX_PROBE:
        size *= 4
    return 8 * size / max(seconds, 1e-4)
