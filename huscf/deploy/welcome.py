"""What a server says of a run to a site that joins, read and checked before anything is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engines.private.options import DifferentialPrivacy
from ..engines.remote import WELCOME, Comparison, check_fields, read_cuts
from ..errors import HuscfError
from ..methods import Method, build_networks
from ..models import Network, SampleShape
from ..split import CutPlan
from ..trust import Trust
from ..wire import DefendedWire
from ..wire.frames import Compression, find_zstd
from .joining import digest_weights
from .run_config import build_method, check_method
from .site_privacy import read_privacy

#: What a server that is started anew may not change for a process of a site.
PROMISED = ("run", "method", "secure", "privacy", "wire", "comparison", "replans")


@dataclass(frozen=True)
class Welcome:
    """A run as its server describes it.

    Args:
        said: All that it says, as plain values.
        method: What is trained.
        networks: As they are before training.
        plan: Cuts of the site's clients.
        order: The clients' numbers in the run, in the order of the site's data.
        shape: Of the run's samples.
        wire: Arguments of the DefendedWire; none change nothing.
        comparison: What is shown, so that clients can be compared.
        privacy: Of records; None is none.
        compression: Of frames.
    """

    said: Mapping[str, Any]
    method: Method
    networks: Mapping[str, Network]
    plan: CutPlan
    order: list[int]
    shape: SampleShape
    wire: dict[str, Any]
    comparison: Comparison
    privacy: DifferentialPrivacy | None
    compression: Compression | None


def read_welcome(
    said: Mapping[str, Any],
    own: SampleShape,
    num_clients: int,
    trust: Trust,
    max_epsilon: float | None = None,
) -> Welcome:
    """Return what a server says of the run.

    Args:
        said: Fields of its frame.
        own: How the site's samples look.
        num_clients: That the site has.
        trust: What the method may be made of.
        max_epsilon: The site's own; see `read_privacy`.

    Raises:
        HuscfError: Where it is malformed, does not fit the site's data, or names a method that
            sites do not take part in.
    """
    check_fields("the server's welcome", said, WELCOME)
    if not said["run"].isalnum():
        raise HuscfError(f"the server names the run {said['run']!r:.40}")
    try:
        method = build_method(said["method"], trust)
        check_method(method)
        wire = dict(said["wire"] or {})
        DefendedWire(**wire)
        comparison = Comparison(**said["comparison"])
        privacy = read_privacy(said["privacy"], max_epsilon)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, HuscfError):
            raise
        raise HuscfError(f"the server's welcome is malformed: {error!r:.200}") from error
    shape = _read_shape(said["shape"], own)
    networks = build_networks(method, shape, said["seed"])
    if digest_weights(networks) != said["weights"]:
        raise HuscfError(
            "this machine draws other initial weights than the server: install the same "
            "versions of torch and huscf at both"
        )
    plan, order = _read_plan(said, networks, num_clients)
    compression = _read_compression(said["compression"])
    return Welcome(
        *(said, method, networks, plan, order, shape, wire, comparison, privacy, compression)
    )


def check_promised(before: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """Refuse that a server which was started anew says something else than to this process before.

    Else one could have a site begin a run with less privacy, or count epsilon from 0 again.

    Raises:
        HuscfError: Naming what is other.
    """
    if changed := [name for name in PROMISED if said[name] != before[name]]:
        raise HuscfError(
            f"the server was started anew with another {' and '.join(changed)}: start this site "
            "again if it shall take part in that"
        )


def _read_shape(dims: list[int], own: SampleShape) -> SampleShape:
    shape = SampleShape(*dims)
    is_larger = shape.num_classes >= own.num_classes
    if (shape.channels, shape.image_size) != (own.channels, own.image_size) or not is_larger:
        raise HuscfError(f"the server's run has samples of {shape}, this site of {own}")
    return shape


def _read_plan(
    said: Mapping[str, Any], networks: Mapping[str, Network], num_clients: int
) -> tuple[CutPlan, list[int]]:
    blocks = tuple((name, len(network)) for name, network in networks.items())
    if [list(pair) for pair in blocks] != said["blocks"]:
        raise HuscfError("the server's welcome names other blocks than its method has")
    order = [client_id for client_id, _ in said["cuts"]]
    if not len(order) == len(set(order)) == num_clients:
        raise HuscfError(
            f"the server's welcome has cuts of {len(set(order))} clients, this site has "
            f"{num_clients}"
        )
    return CutPlan(blocks, tuple(read_cuts(said["cuts"], list(networks)))), order


def _read_compression(name: str | None) -> Compression | None:
    if name is None:
        return None
    if name != "zstd":
        raise HuscfError(f"the server compresses by {name!r:.40}, unknown here")
    find_zstd()
    return "zstd"
