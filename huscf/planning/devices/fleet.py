"""Who takes part in a run: every client with its device, and the server."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...errors import PlanError
from ...named_configs import find_config
from ...text_files import read_text
from ...user_paths import expand_path
from .profiles import (
    DeviceProfile,
    ServerProfile,
    name_keys,
    parse_profiles,
    parse_server,
    read_number,
    read_whole,
)


@dataclass(frozen=True)
class ClientDevice:
    """One client as the planner sees it.

    Args:
        client_id: The client.
        profile: Its device.
        batch_size: Samples per step.
    """

    client_id: int
    profile: DeviceProfile
    batch_size: int


@dataclass(frozen=True)
class Fleet:
    """All clients, ascending by id, and the server.

    Args:
        clients: One entry per client.
        server: The server.
    """

    clients: tuple[ClientDevice, ...]
    server: ServerProfile

    @cached_property
    def by_client(self) -> dict[int, ClientDevice]:
        """Return the entries by client id."""
        return {client.client_id: client for client in self.clients}


@dataclass(frozen=True)
class DevicesFile:
    """Profiles, server and the rule by which clients get their profiles.

    Args:
        profiles: By name.
        server: The server.
        counts: Clients of each profile, or None where shares are given.
        shares: Share of each profile, summing to 1, or None where counts are given.
        num_clients: Number of clients that the shares are of, or None to take the run's.
    """

    profiles: Mapping[str, DeviceProfile]
    server: ServerProfile
    counts: Mapping[str, int] | None
    shares: Mapping[str, float] | None
    num_clients: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DevicesFile":
        """Read the keys profiles, server and assignment; the others are for `read_file_keys`.

        Raises:
            PlanError: Naming the key at fault.
        """
        for key in ("profiles", "server", "assignment"):
            if key not in values:
                raise PlanError(f"devices: {key} is missing")
        profiles = parse_profiles(values["profiles"])
        rule = _check_rule(values["assignment"], profiles)
        counts, shares = rule.get("counts"), rule.get("shares")
        if counts is not None:
            _check_counts(counts)
        else:
            _check_shares(shares)
        return cls(
            profiles, parse_server(values["server"]), counts, shares, rule.get("num_clients")
        )

    @classmethod
    def load(cls, path: str | Path) -> "DevicesFile":
        """Read such a YAML file.

        Raises:
            PlanError: Naming the file and the key at fault.
        """
        values = load_mapping(path)
        try:
            return cls.from_dict(values)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error

    def client_ids(self) -> list[int]:
        """Return 0, 1, ... for as many clients as the file itself names.

        Raises:
            PlanError: Where the file gives shares without num_clients.
        """
        number = sum(self.counts.values()) if self.counts is not None else self.num_clients
        if number is None:
            raise PlanError("assignment: num_clients is missing beside shares")
        return list(range(number))

    def make_fleet(self, batch_sizes: Mapping[int, int], seed: int) -> Fleet:
        """Give every client a profile; which client gets which is drawn by the seed.

        Args:
            batch_sizes: Samples per step by client id.
            seed: Seed of the draw.

        Raises:
            PlanError: Where the counts do not sum to the clients.
        """
        ids = sorted(batch_sizes)
        names = self._list_profiles(len(ids))
        order = np.random.default_rng(seed).permutation(len(ids))
        clients = tuple(
            ClientDevice(client, self.profiles[names[place]], batch_sizes[client])
            for client, place in zip(ids, order, strict=True)
        )
        return Fleet(clients, self.server)

    def _list_profiles(self, number: int) -> list[str]:
        counts = self.counts
        if counts is None:
            assert self.shares is not None
            counts = apportion(self.shares, number)
        elif sum(counts.values()) != number:
            raise PlanError(
                f"assignment: counts sum to {sum(counts.values())}, but there are {number} clients"
            )
        return [name for name, count in counts.items() for _ in range(count)]


def apportion(shares: Mapping[str, float], number: int) -> dict[str, int]:
    """Turn shares that sum to 1 into whole counts that sum to number (largest remainders)."""
    counts = {name: int(share * number + 1e-9) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * number)
    for name in by_remainder[: number - sum(counts.values())]:
        counts[name] += 1
    return counts


def scale_profile(profile: DeviceProfile, factors: Mapping[str, float]) -> DeviceProfile:
    """Return the profile with some of its figures multiplied.

    Args:
        profile: The device.
        factors: Factor by field name, for instance {"uplink_bits_per_s": 0.5}.
    """
    scaled = {name: getattr(profile, name) * factor for name, factor in factors.items()}
    return replace(profile, **scaled)


def load_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file, or one that comes with huscf: no key is repeated, 1e-3 is a number.

    Raises:
        HuscfError: Naming the file, where it is missing, cannot be read or is not such a mapping.
    """
    path = find_config(str(path))
    try:
        values = yaml.load(read_text(expand_path(path)), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"{path}: cannot be read: {reason}") from error
    if not isinstance(values, dict):
        raise PlanError(f"{path}: not a YAML mapping")
    return values


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is repeated", node.start_mark
                )
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3, without a point, for text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _check_rule(values: object, profiles: Mapping[str, DeviceProfile]) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or ("counts" in values) == ("shares" in values):
        raise PlanError("assignment: give either counts or shares, a mapping of profile names")
    for key in values:
        if key not in ("counts", "shares", "num_clients"):
            raise PlanError(f"assignment: unknown key {key}; known: counts, shares, num_clients")
    kind = "counts" if "counts" in values else "shares"
    amounts = values[kind]
    if not isinstance(amounts, Mapping) or not amounts:
        raise PlanError(f"assignment: {kind} must map profile names to numbers")
    amounts = name_keys(amounts, f"assignment: {kind}")
    for name in amounts:
        if name not in profiles:
            raise PlanError(
                f"assignment: {kind} name the profile {name}; known: {', '.join(profiles)}"
            )
    number = values.get("num_clients")
    if number is not None and read_whole(values, "num_clients", "assignment") < 1:
        raise PlanError(f"assignment: num_clients is {number}, must be >= 1")
    if kind == "counts" and number not in (None, sum(_whole(amounts.values()))):
        raise PlanError(
            f"assignment: counts sum to {sum(_whole(amounts.values()))}, num_clients is {number}"
        )
    return {**values, kind: amounts}


def _whole(values: Any) -> Sequence[int]:
    return [value for value in values if type(value) is int]


def _check_counts(counts: Mapping[str, Any]) -> None:
    for name in counts:
        read_whole(counts, name, "assignment: counts")
    if not sum(counts.values()):
        raise PlanError("assignment: counts sum to 0, must name at least one client")


def _check_shares(shares: Any) -> None:
    total = sum(read_number(shares, name, "assignment: shares", True) for name in shares)
    if abs(total - 1) > 1e-6:
        raise PlanError(f"assignment: shares sum to {total:g}, must sum to 1")
