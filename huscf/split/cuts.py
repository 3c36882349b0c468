"""Where each client's networks are cut, as frozen, validated values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..errors import PlanError
from ..text_files import read_text
from ..user_paths import expand_path
from ..whole_files import write_text


@dataclass(frozen=True)
class ClientCuts:
    """How many blocks one client holds at each end of each network; the server has the rest.

    Args:
        ends: Network, blocks held from its input on, and blocks held up to its output, for every
            network in the method's order. Head and tail may be 0; where they are all blocks, the
            server has none.
    """

    ends: tuple[tuple[str, int, int], ...]

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the networks' names."""
        return tuple(name for name, _, _ in self.ends)

    def head(self, network: str) -> int:
        """Return the number of head blocks of a network."""
        return self._by_network[network][0]

    def tail(self, network: str) -> int:
        """Return the number of tail blocks of a network."""
        return self._by_network[network][1]

    def server_range(self, network: str, num_blocks: int) -> range:
        """Return the indices of the blocks that this client leaves to the server."""
        head, tail = self._by_network[network]
        return range(head, num_blocks - tail)

    def held(self, network: str, num_blocks: int) -> list[int]:
        """Return the indices of the blocks that this client holds."""
        middle = self.server_range(network, num_blocks)
        return [index for index in range(num_blocks) if index not in middle]

    def as_list(self) -> list[int]:
        """Return head and tail of every network in turn."""
        return [count for _, head, tail in self.ends for count in (head, tail)]

    @classmethod
    def from_list(
        cls, counts: object, networks: Sequence[str], owner: str = "cuts"
    ) -> "ClientCuts":
        """Build the cuts from block counts in the order of `as_list`.

        Raises:
            PlanError: Naming the owner, unless there are two whole numbers for each network.
        """
        values = list(counts) if isinstance(counts, Iterable) else []
        if len(values) != 2 * len(networks) or not all(type(value) is int for value in values):
            names = ", ".join(name for network in networks for name in cut_names(network))
            number = {2: "two", 4: "four", 6: "six"}.get(2 * len(networks), 2 * len(networks))
            raise PlanError(f"{owner}: cuts are {number} whole numbers [{names}], got {counts}")
        pairs = zip(networks, values[::2], values[1::2], strict=True)
        return cls(tuple(pairs))

    @cached_property
    def _by_network(self) -> dict[str, tuple[int, int]]:
        return {name: (head, tail) for name, head, tail in self.ends}


def cut_names(network: str) -> tuple[str, str]:
    """Return the names of a network's head cut and tail cut."""
    return f"{network}_head", f"{network}_tail"


@dataclass(frozen=True)
class ClientPlan:
    """One client's line in a plan.

    Args:
        client_id: The client.
        cuts: Its cuts.
        profile: Name of its device profile, or "" where none was used.
    """

    client_id: int
    cuts: ClientCuts
    profile: str = ""


@dataclass(frozen=True)
class CutPlan:
    """The cuts of all clients for a method's networks, valid by construction.

    Args:
        blocks: Every network and its number of blocks, in the method's order.
        clients: One entry per client, in ascending order of client_id.

    Raises:
        PlanError: Naming the client and the cut, where a number is negative or a client holds
            more blocks than there are, or where client ids repeat.
    """

    blocks: tuple[tuple[str, int], ...]
    clients: tuple[ClientPlan, ...]

    def __post_init__(self) -> None:
        ids = [client.client_id for client in self.clients]
        if not ids:
            raise PlanError("cut plan: it names no client")
        if ids != sorted(set(ids)):
            raise PlanError(f"cut plan: client ids must be unique and ascending, got {ids}")
        for client in self.clients:
            if client.cuts.networks != self.networks:
                raise PlanError(
                    f"client {client.client_id}: has cuts of {', '.join(client.cuts.networks)}, "
                    f"the plan is for {', '.join(self.networks)}"
                )
            for network, count in self.blocks:
                check_cuts(client, network, count, Placement(0, 0, 0))

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the networks' names, in the method's order."""
        return tuple(name for name, _ in self.blocks)

    def num_blocks(self, network: str) -> int:
        """Return the number of blocks of a network."""
        return dict(self.blocks)[network]

    @cached_property
    def by_client(self) -> dict[int, ClientPlan]:
        """Return the entries by client id."""
        return {client.client_id: client for client in self.clients}

    @property
    def client_ids(self) -> list[int]:
        """Return all client ids, ascending."""
        return [client.client_id for client in self.clients]

    def server_blocks(self, network: str) -> list[int]:
        """Return the indices of the blocks that at least one client leaves to the server."""
        count = self.num_blocks(network)
        held = {b for c in self.clients for b in c.cuts.server_range(network, count)}
        return sorted(held)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values for YAML."""
        return {
            "blocks": dict(self.blocks),
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
            blocks = tuple(values["blocks"].items())
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(
                "cut plan: needs blocks (network: number) and a list clients of "
                f"{{client, profile, cuts}}; problem with {error}"
            ) from error
        for network, count in blocks:
            _check_type(f"cut plan: blocks: {network}", count, int)
        networks = [str(network) for network, _ in blocks]
        clients = []
        for client, cuts, profile in entries:
            owner = f"client {client}"
            _check_type(f"{owner}: client", client, int)
            _check_type(f"{owner}: profile", profile, str)
            own = ClientCuts.from_list(cuts, networks, owner)
            clients.append(ClientPlan(client, own, profile))
        return cls(blocks, tuple(sorted(clients, key=lambda client: client.client_id)))

    def save(self, path: str | Path, **extra: object) -> None:
        """Write the plan as YAML.

        Args:
            path: File to write.
            extra: Further top-level keys, for instance a latency breakdown.
        """
        text = yaml.safe_dump({**self.to_dict(), **extra}, sort_keys=False, default_flow_style=None)
        write_text(Path(path), text)

    @classmethod
    def load(cls, path: str | Path) -> "CutPlan":
        """Read a plan that `save` wrote.

        Raises:
            PlanError: Naming the file, where it is missing or not such a plan.
        """
        try:
            values = yaml.safe_load(read_text(expand_path(path)))
        except (OSError, yaml.YAMLError, ValueError) as error:
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


@dataclass(frozen=True)
class Placement:
    """Where a method lets the blocks of a network lie.

    Args:
        min_head: Fewest blocks of a client's head.
        min_tail: Fewest blocks of a client's tail.
        min_server: Fewest blocks at the server.
        max_server: Most blocks at the server, or None for any number.
    """

    min_head: int = 1
    min_tail: int = 1
    min_server: int = 1
    max_server: int | None = None

    def smallest(self, num_blocks: int) -> tuple[int, int]:
        """Return the fewest blocks of head and tail; what the server may not have is the head's."""
        least = self.min_head
        if self.max_server is not None:
            least = max(least, num_blocks - self.min_tail - self.max_server)
        return least, self.min_tail


def check_cuts(client: ClientPlan, network: str, num_blocks: int, allowed: Placement) -> None:
    """Raise a PlanError that names client and cut unless the placement is an allowed one."""
    head, tail = client.cuts.head(network), client.cuts.tail(network)
    owner = f"client {client.client_id}"
    for name, count, least in (("head", head, allowed.min_head), ("tail", tail, allowed.min_tail)):
        if count < least:
            blocks = f"{least} block{'s' * (least != 1)}"
            raise PlanError(f"{owner}: {network}_{name} is {count}, must be at least {blocks}")
    left = num_blocks - head - tail
    if left < allowed.min_server:
        verb = "leave the server no block" if left == 0 else f"leave the server {left} blocks"
        raise PlanError(
            f"{owner}: {network}_head {head} + {network}_tail {tail} {verb} "
            f"of the {num_blocks}-block {network}; lower one of them"
        )
    if allowed.max_server is not None and left > allowed.max_server:
        raise PlanError(
            f"{owner}: {network}_head {head} + {network}_tail {tail} leave the server {left} "
            f"blocks of the {num_blocks}-block {network}, and this method leaves it at most "
            f"{allowed.max_server}; raise one of them"
        )
