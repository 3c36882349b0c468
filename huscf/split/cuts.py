"""Where each client's two networks are cut, as frozen, validated values."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import PlanError

NetworkName = Literal["generator", "discriminator"]
NETWORK_NAMES: tuple[NetworkName, NetworkName] = ("generator", "discriminator")


@dataclass(frozen=True)
class ClientCuts:
    """How many blocks one client holds at each end of its two networks; the server has the rest.

    Args:
        generator_head: Blocks of the generator from its input on, at least 1.
        generator_tail: Blocks of the generator up to its output, at least 1.
        discriminator_head: Blocks of the discriminator from its input on, at least 1.
        discriminator_tail: Blocks of the discriminator up to its output, at least 1.
    """

    generator_head: int = 1
    generator_tail: int = 1
    discriminator_head: int = 1
    discriminator_tail: int = 1

    def head(self, network: NetworkName) -> int:
        """Return the number of head blocks of a network."""
        return self.generator_head if network == "generator" else self.discriminator_head

    def tail(self, network: NetworkName) -> int:
        """Return the number of tail blocks of a network."""
        return self.generator_tail if network == "generator" else self.discriminator_tail

    def server_range(self, network: NetworkName, num_blocks: int) -> range:
        """Return the indices of the blocks that this client leaves to the server."""
        return range(self.head(network), num_blocks - self.tail(network))

    def as_list(self) -> list[int]:
        """Return [generator_head, generator_tail, discriminator_head, discriminator_tail]."""
        return list(astuple(self))

    @classmethod
    def from_list(cls, counts: Iterable[int], owner: str = "cuts") -> "ClientCuts":
        """Build the cuts from four block counts in the order of `as_list`.

        Raises:
            PlanError: Naming the owner, unless there are four whole numbers.
        """
        values = list(counts) if isinstance(counts, Iterable) else counts
        is_list = isinstance(values, list) and len(values) == 4
        if not is_list or not all(type(value) is int for value in values):
            names = ", ".join(field.name for field in fields(cls))
            raise PlanError(f"{owner}: cuts are four whole numbers [{names}], got {values}")
        return cls(*values)


@dataclass(frozen=True)
class ClientPlan:
    """One client's line in a plan.

    Args:
        client_id: The client.
        cuts: Its four cuts.
        profile: Name of its device profile, or "" where none was used.
    """

    client_id: int
    cuts: ClientCuts
    profile: str = ""


@dataclass(frozen=True)
class CutPlan:
    """The cuts of all clients for one pair of networks, valid by construction.

    Args:
        generator_blocks: Number of blocks of the generator.
        discriminator_blocks: Number of blocks of the discriminator.
        clients: One entry per client, in ascending order of client_id.

    Raises:
        PlanError: Naming the client and the cut, where a head or tail has less than one
            block or the server is left with none, or where client ids repeat.
    """

    generator_blocks: int
    discriminator_blocks: int
    clients: tuple[ClientPlan, ...]

    def __post_init__(self) -> None:
        ids = [client.client_id for client in self.clients]
        if not ids:
            raise PlanError("cut plan: it names no client")
        if ids != sorted(set(ids)):
            raise PlanError(f"cut plan: client ids must be unique and ascending, got {ids}")
        for client in self.clients:
            for network in NETWORK_NAMES:
                _check_cuts(client, network, self.num_blocks(network))

    def num_blocks(self, network: NetworkName) -> int:
        """Return the number of blocks of a network."""
        return self.generator_blocks if network == "generator" else self.discriminator_blocks

    @cached_property
    def by_client(self) -> dict[int, ClientPlan]:
        """Return the entries by client id."""
        return {client.client_id: client for client in self.clients}

    @property
    def client_ids(self) -> list[int]:
        """Return all client ids, ascending."""
        return [client.client_id for client in self.clients]

    def server_blocks(self, network: NetworkName) -> list[int]:
        """Return the indices of the blocks that at least one client leaves to the server."""
        count = self.num_blocks(network)
        held = {b for c in self.clients for b in c.cuts.server_range(network, count)}
        return sorted(held)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values for YAML."""
        return {
            "generator_blocks": self.generator_blocks,
            "discriminator_blocks": self.discriminator_blocks,
            "clients": [
                {"client": c.client_id, "profile": c.profile, "cuts": c.cuts.as_list()}
                for c in self.clients
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CutPlan":
        """Build a plan from `to_dict` values; other keys beside them are ignored.

        Raises:
            PlanError: Where a key is missing or the plan is not valid.
        """
        try:
            entries = [(c["client"], c["cuts"], c.get("profile", "")) for c in values["clients"]]
            counts = values["generator_blocks"], values["discriminator_blocks"]
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(
                "cut plan: needs generator_blocks, discriminator_blocks and a list clients of "
                f"{{client, profile, cuts}}; problem with {error}"
            ) from error
        for network, count in zip(NETWORK_NAMES, counts, strict=True):
            _check_type(f"cut plan: {network}_blocks", count, int)
        clients = []
        for client, cuts, profile in entries:
            owner = f"client {client}"
            _check_type(f"{owner}: client", client, int)
            _check_type(f"{owner}: profile", profile, str)
            clients.append(ClientPlan(client, ClientCuts.from_list(cuts, owner), profile))
        return cls(*counts, tuple(sorted(clients, key=lambda client: client.client_id)))

    def save(self, path: str | Path, **extra: object) -> None:
        """Write the plan as YAML.

        Args:
            path: File to write.
            extra: Further top-level keys, for instance a latency breakdown.
        """
        text = yaml.safe_dump({**self.to_dict(), **extra}, sort_keys=False, default_flow_style=None)
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "CutPlan":
        """Read a plan that `save` wrote.

        Raises:
            PlanError: Naming the file, where it is missing or not such a plan.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise PlanError(f"cut plan {path}: cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise PlanError(f"cut plan {path}: not a YAML mapping")
        try:
            return cls.from_dict(values)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error


def _check_type(owner: str, value: object, wanted: type) -> None:
    if type(value) is not wanted:
        name = "a whole number" if wanted is int else "text"
        raise PlanError(f"{owner} is {value!r}, must be {name}")


def _check_cuts(client: ClientPlan, network: NetworkName, num_blocks: int) -> None:
    head, tail = client.cuts.head(network), client.cuts.tail(network)
    owner = f"client {client.client_id}"
    for name, count in (("head", head), ("tail", tail)):
        if count < 1:
            raise PlanError(f"{owner}: {network}_{name} is {count}, must be at least 1 block")
    if head + tail >= num_blocks:
        raise PlanError(
            f"{owner}: {network}_head {head} + {network}_tail {tail} leave the server no block "
            f"of the {num_blocks}-block {network}; lower one of them"
        )
