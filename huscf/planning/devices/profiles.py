"""Compute, memory and link figures of devices and server, read from keys that name their units."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from reprlib import repr as shorten
from typing import Any

from ...errors import PlanError
from .chains import Chain

MEBIBYTE = 2**20
# Sizes that no device has, beyond which seconds are not finite.
_SMALLEST, _LARGEST = 1e-12, 1e18
_LARGEST_WHOLE = 2**31 - 1
_DEVICE_KEYS = {
    "speed_gflops",
    "clock_mhz",
    "flops_per_cycle",
    "uplink_mbit_per_s",
    "downlink_mbit_per_s",
    "round_trip_ms",
    "memory_mib",
    "power_w",
}
_CHAIN_KEYS = {"chain", "lan_mbit_per_s", "chain_sharing"}
_SERVER_KEYS = _DEVICE_KEYS - {"round_trip_ms", "memory_mib", "power_w"}


@dataclass(frozen=True)
class DeviceProfile:
    """What one kind of device can do, in SI units.

    Args:
        name: Name of the profile.
        speed_flops_per_s: Effective speed.
        uplink_bits_per_s: Rate to the server.
        downlink_bits_per_s: Rate from the server.
        round_trip_s: Delay of a message there and back; 0 neglects it.
        memory_bytes: What training may use; None is not limited.
        power_w: Power drawn while computing or transmitting; None is not known.
        chain: The user's devices among which a network is shared out that the client holds whole;
            None where this is its only one.
    """

    name: str
    speed_flops_per_s: float
    uplink_bits_per_s: float
    downlink_bits_per_s: float
    round_trip_s: float = 0.0
    memory_bytes: float | None = None
    power_w: float | None = None
    chain: Chain | None = None


@dataclass(frozen=True)
class ServerProfile:
    """What the server can do; its link is shared by all clients.

    Args:
        speed_flops_per_s: Effective speed.
        uplink_bits_per_s: Rate at which it receives from all clients together.
        downlink_bits_per_s: Rate at which it sends to all clients together.
    """

    speed_flops_per_s: float
    uplink_bits_per_s: float
    downlink_bits_per_s: float


def parse_profiles(values: object) -> dict[str, DeviceProfile]:
    """Read the mapping profile name -> figures.

    Args:
        values: For each name either speed_gflops, or clock_mhz (of all cores together) and
            flops_per_cycle; uplink_mbit_per_s and downlink_mbit_per_s; optionally
            round_trip_ms, memory_mib and power_w. A user of several devices has a chain, names
            of other profiles, lan_mbit_per_s, and optionally chain_sharing; see Chain.

    Raises:
        PlanError: Naming the profile and the key that is missing, unknown or out of range.
    """
    if not isinstance(values, Mapping) or not values:
        raise PlanError("profiles: must map at least one profile name to its figures")
    named = name_keys(values, "profiles")
    found = {name: _parse_device(name, figures) for name, figures in named.items()}
    for name, figures in named.items():
        if _CHAIN_KEYS & figures.keys():
            found[name] = replace(found[name], chain=_parse_chain(name, figures, found))
    return found


def parse_server(values: object) -> ServerProfile:
    """Read the server's figures: speed as for a device, and both links.

    Raises:
        PlanError: Naming the key that is missing, unknown or out of range.
    """
    figures = _check_keys(values, _SERVER_KEYS, "server")
    return ServerProfile(_parse_speed(figures, "server"), *_parse_links(figures, "server"))


def read_number(
    values: Mapping[str, Any], key: str, owner: str, can_be_zero: bool = False
) -> float:
    """Return a finite, positive number.

    Raises:
        PlanError: Naming owner and key, where it is missing or not such a number.
    """
    if key not in values:
        raise PlanError(f"{owner}: {key} is missing")
    value = values[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_number = is_number and abs(value) <= sys.float_info.max
    if not is_number or value < 0 or (value == 0 and not can_be_zero):
        wanted = "a number >= 0" if can_be_zero else "a number > 0"
        raise PlanError(f"{owner}: {key} is {shorten(value)}, must be {wanted}")
    return float(value)


def read_figure(
    values: Mapping[str, Any], key: str, owner: str, can_be_zero: bool = False
) -> float:
    """Return a number of a size that times can be computed from.

    Raises:
        PlanError: Naming owner and key, where it is missing or not such a number.
    """
    value = read_number(values, key, owner, can_be_zero)
    if value and not _SMALLEST <= value <= _LARGEST:
        raise PlanError(f"{owner}: {key} is {value:g}, must lie in {_SMALLEST:g} to {_LARGEST:g}")
    return value


def read_whole(values: Mapping[str, Any], key: str, owner: str, least: int = 0) -> int:
    """Return a whole number >= least.

    Raises:
        PlanError: Naming owner and key, where it is not such a number.
    """
    value = values[key]
    if type(value) is not int or not least <= value <= _LARGEST_WHOLE:
        wanted = f"a whole number from {least} to {_LARGEST_WHOLE}"
        raise PlanError(f"{owner}: {key} is {shorten(value)}, must be {wanted}")
    return value


def name_keys(values: Mapping[Any, Any], owner: str) -> dict[str, Any]:
    """Return the mapping with text as keys: YAML reads some names as numbers.

    Raises:
        PlanError: Where two keys are the same text.
    """
    named: dict[str, Any] = {}
    for key, value in values.items():
        if str(key) in named:
            raise PlanError(f"{owner}: the key {key} is repeated")
        named[str(key)] = value
    return named


def _parse_device(name: str, values: object) -> DeviceProfile:
    owner = f"profiles: {name}"
    figures = _check_keys(values, _DEVICE_KEYS | _CHAIN_KEYS, owner)
    memory = read_figure(figures, "memory_mib", owner) if "memory_mib" in figures else None
    return DeviceProfile(
        name,
        _parse_speed(figures, owner),
        *_parse_links(figures, owner),
        round_trip_s=read_figure({"round_trip_ms": 0, **figures}, "round_trip_ms", owner, True)
        / 1e3,
        memory_bytes=None if memory is None else memory * MEBIBYTE,
        power_w=read_figure(figures, "power_w", owner) if "power_w" in figures else None,
    )


def _parse_chain(
    name: str, figures: Mapping[str, Any], profiles: Mapping[str, DeviceProfile]
) -> Chain:
    owner, members = f"profiles: {name}", figures.get("chain")
    if not isinstance(members, list) or not members:
        raise PlanError(f"{owner}: chain must list the profiles of the user's devices")
    for member in map(str, members):
        if member not in profiles:
            raise PlanError(f"{owner}: chain: no profile {member}; there are {', '.join(profiles)}")
    speeds = tuple(profiles[str(member)].speed_flops_per_s for member in members)
    rate = read_figure(figures, "lan_mbit_per_s", owner) * 1e6
    try:
        return Chain(speeds, rate, figures.get("chain_sharing", "proportional"))
    except PlanError as error:
        raise PlanError(f"{owner}: {error}") from None


def _check_keys(values: object, known: set[str], owner: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise PlanError(f"{owner}: must be a mapping of figures, got {values!r}")
    for key in values:
        if key not in known:
            raise PlanError(
                f"{owner}: unknown key {key}; known, each with its unit: {', '.join(sorted(known))}"
            )
    return values


def _parse_speed(figures: Mapping[str, Any], owner: str) -> float:
    if "speed_gflops" in figures:
        if "clock_mhz" in figures or "flops_per_cycle" in figures:
            raise PlanError(f"{owner}: give speed_gflops or clock_mhz and flops_per_cycle")
        return read_figure(figures, "speed_gflops", owner) * 1e9
    if "clock_mhz" not in figures:
        raise PlanError(f"{owner}: speed_gflops (or clock_mhz and flops_per_cycle) is missing")
    clock_hz = read_figure(figures, "clock_mhz", owner) * 1e6
    return clock_hz * read_figure(figures, "flops_per_cycle", owner)


def _parse_links(figures: Mapping[str, Any], owner: str) -> tuple[float, float]:
    up = read_figure(figures, "uplink_mbit_per_s", owner) * 1e6
    return up, read_figure(figures, "downlink_mbit_per_s", owner) * 1e6
