"""A whole generator for a site: the server's blocks of the networks that are drawn through."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from ...errors import HuscfError
from ...methods import find_drawn
from ...parties import read_block, write_block
from ...wire import MemoryWire
from ..local import LocalEngine
from ..serial import SerialEngine
from .block_frames import BlockRef, Wanted, fetch_block

if TYPE_CHECKING:
    from .engine import RemoteEngine
    from .site import Ask, SiteHalf


def hand_out(engine: "RemoteEngine", said: Mapping[str, Any], timeout_s: float) -> list[str]:
    """Let every site that is there fetch the blocks that its clients draw through.

    Args:
        engine: The server's.
        said: What else the sites are told.
        timeout_s: They have so long.

    Returns:
        The sites that have them.
    """
    engine.blocks.lent = {ref: read_block(block) for ref, block in _list_blocks(engine)}
    command = {"kind": "keep", "clusters": sorted(engine.clusters.items()), **said}
    try:
        answers = engine.let_sites_draw(command, timeout_s)
    finally:
        engine.blocks.lent = {}
    return sorted(name for name, answer in answers.items() if answer.get("has_kept"))


def fetch_drawn(half: "SiteHalf", clusters: Mapping[int, int], ask: "Ask") -> SerialEngine:
    """Return an engine whose clients draw as this site's do, its server's blocks being fetched.

    Blocks through which nobody draws are as they were before training.

    Args:
        half: The site's.
        clusters: By client, of all its clients at least.
        ask: The way to the server.

    Raises:
        HuscfError: Where the server does not name all of these.
    """
    if missing := half.clients.keys() - clusters.keys():
        raise HuscfError(f"the server names no cluster of client {min(missing)}")
    clusters = {client_id: clusters[client_id] for client_id in half.clients}
    sizes = dict.fromkeys(half.clients, 1)
    engine = SerialEngine(half.method, half.networks, half.plan, half.shape, sizes)
    copies = sorted(set(clusters.values()))
    engine.server.clusters = clusters
    for holding in engine.server.holdings:
        holding.set_copies(len(copies), {c: copies.index(own) for c, own in clusters.items()})
    for client_id, client in half.clients.items():
        engine.client(client_id).own_memory()
        engine.client(client_id).load_state_dict(client.state_dict())
    written = set()
    for ref, block in _list_blocks(engine):
        if block not in written:  # which other clients of the cluster have too
            written.add(block)
            wanted = Wanted(ref, half.networks[ref.network], False, MemoryWire())
            write_block(block, fetch_block(wanted, ask))
    return engine


def _list_blocks(engine: LocalEngine) -> Iterator[tuple[BlockRef, nn.Module]]:
    """Yield the server's blocks that clients draw through, and for whom each stands there."""
    for network in find_drawn(engine.method, engine.networks):
        holding = engine.sampling_holding(network)
        for client_id in engine.clusters:
            segment = getattr(engine.server, holding).segment(network, client_id)
            for index in engine.server.server_range(network, client_id):
                yield BlockRef(client_id, holding, network, index), segment.block(index)
