"""Sites that join: what they say of their data, and whether that fits what the others said."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from ..engines.remote import PROTOCOL
from ..errors import HuscfError
from ..models import Network, SampleShape


class Roll:
    """Who has joined.

    Args:
        roster: Clients by name of a site.
        shape: Of the run's samples; None until a site has said how its own look.

    Attributes:
        joined: What a site has said of itself, by its name.
    """

    def __init__(
        self, roster: Mapping[str, tuple[int, ...]], shape: SampleShape | None = None
    ) -> None:
        self.roster, self.shape, self._given = roster, shape, shape
        self.joined: dict[str, dict[str, Any]] = {}

    def sizes_of(self, name: str) -> list[list[int]]:
        """Return samples and batch size of every client of a site that has joined."""
        return self.joined[name]["clients"]

    def enter(self, name: str, header: dict[str, Any], may_add_classes: bool) -> None:
        """Take down what a site says.

        Args:
            name: Of the site.
            header: Of its request.
            may_add_classes: Whether it may have more classes than the others, as long as nothing is
                set up; then what it says takes the place of what it has said before.

        Raises:
            HuscfError: Where it speaks another protocol, or its data do not fit.
        """
        if header["protocol"] != PROTOCOL:
            raise HuscfError(
                f"this site speaks protocol {header['protocol']} (huscf {header['version']:.20}), "
                f"the server {PROTOCOL} (huscf {version('huscf')}): install the same version"
            )
        self._check_sizes(name, header["clients"])
        shape = self.shape
        if may_add_classes:
            shape = self._given
            for other in self.joined.keys() - {name}:
                shape = _fit_shape(shape, self.joined[other]["shape"], may_add_classes=True)
        self.shape = _fit_shape(shape, header["shape"], may_add_classes)
        self.joined[name] = header

    def _check_sizes(self, name: str, sizes: list[Any]) -> None:
        are_pairs = all(
            isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
            for pair in sizes
        )
        if not are_pairs or not all(1 <= batch <= size < 1 << 40 for size, batch in sizes):
            raise HuscfError("a client has one or more samples, and a batch no larger")
        if len(sizes) != len(self.roster[name]):
            raise HuscfError(
                f"{name} has data of {len(sizes)} clients, the roster {len(self.roster[name])}: "
                "set data.init_args.clients_per_domain, or mend roster.yaml"
            )


def _fit_shape(known: SampleShape | None, said: list[Any], may_add_classes: bool) -> SampleShape:
    """Return the run's shape, now that another site has said how its samples look."""
    if len(said) != 3 or not all(type(n) is int and 0 < n < 1 << 16 for n in said):
        raise HuscfError("a sample's shape is channels, side and number of classes")
    own = SampleShape(*said)
    if known is None:
        return own
    if (known.channels, known.image_size) != (own.channels, own.image_size):
        raise HuscfError(
            f"its samples have {own.channels} channels and {own.image_size} pixels a side, those "
            f"of the run {known.channels} and {known.image_size}: set data.init_args.channels and "
            "image_size"
        )
    if own.num_classes <= known.num_classes:
        return known
    if not may_add_classes:
        raise HuscfError(f"it has {own.num_classes} classes, the run {known.num_classes}")
    return own


def digest_weights(networks: Mapping[str, Network]) -> str:
    """Return a hash of the weights from which everybody starts."""
    digest = hashlib.blake2b(digest_size=12)
    for network in networks.values():
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
