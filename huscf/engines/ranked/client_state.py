"""All that a client's process knows of it, for another process to take over."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...parties import Client, is_freed
from ...wire import TrafficKey
from .ranks import Parcel

if TYPE_CHECKING:
    from .engine import RankedEngine


def read_notes(engine: "RankedEngine", client_id: int) -> Parcel:
    """Return what is known of a client beside its blocks: statistics, bytes, what it remembers."""
    counts, tensors = [], []
    for statistics in engine.all_statistics():
        sums, found = statistics.read_client(client_id)
        counts.append([sums, len(found)])
        tensors += found
    traffic = [
        [key.kind, key.topic, key.direction, count]
        for key, count in engine.wire.traffic.num_bytes.items()
        if key.client_id == client_id
    ]
    remembered = dict(engine.client(client_id).remembered)
    return [client_id, counts, traffic, remembered], tensors


def write_notes(engine: "RankedEngine", parcel: Parcel) -> None:
    """Take over what `read_notes` gave in another process."""
    (client_id, counts, traffic, remembered), tensors = parcel
    rest = iter(tensors)
    for statistics, (sums, number) in zip(engine.all_statistics(), counts, strict=True):
        statistics.write_client(client_id, sums, [next(rest) for _ in range(number)])
    known = engine.wire.traffic.num_bytes
    for kind, topic, direction, count in traffic:
        known[TrafficKey(client_id, kind, topic, direction)] = count
    engine.client(client_id).remembered = dict(remembered)


def read_blocks(client: Client, are_known: bool) -> list[Tensor]:
    """Return all parameters and buffers, moving averages included, in fixed order.

    Args:
        client: Whose.
        are_known: Whether the receiver has all but the counters.
    """
    every = [*client.parameters(), *client.buffers()]
    return [t for t in every if not (are_known and t.is_floating_point())]


def write_blocks(client: Client, tensors: Sequence[Tensor], are_known: bool) -> bool:
    """Take over what `read_blocks` gave in another process; counters apart, only what is lacking.

    What a client shows is left alone, so that equal blocks of several go on lying in one memory.

    Returns:
        Whether there is any such.
    """
    shown = sum(t.is_floating_point() and not is_freed(t) for t in read_blocks(client, False))
    for own, arrived in zip(read_blocks(client, are_known), tensors, strict=True):
        if is_freed(own) or not own.is_floating_point():
            own.data = arrived.to(own.device)
    return shown > 0


def read_moments(client: Client) -> Parcel:
    """Return the state of a client's optimisers."""
    found = {
        (network, name, key): value
        for network, by_name in client.get_optimizer_state().items()
        for name, values in by_name.items()
        for key, value in values.items()
    }
    return [list(key) for key in found], list(found.values())


def sort_moments(client: Client, parcel: Parcel) -> dict[str, dict[str, dict[str, Any]]]:
    """Return moments as Party.get_optimizer_state does."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in client.optimizers}
    for (network, name, key), tensor in zip(*parcel, strict=True):
        found[network].setdefault(name, {})[key] = tensor
    return found


def list_drawn_tensors(client: Client, networks: Sequence[str]) -> list[Tensor]:
    """Return the tensors of those blocks through which a client draws samples.

    Args:
        client: Whose.
        networks: Through which drawing goes; of their moving averages where there are any.
    """
    found: list[Tensor] = []
    for network in networks:
        average = client.average
        is_averaged = average is not None and network in average.network_names
        holding = average if is_averaged and average is not None else client.trained
        for segment in holding.segments(network):
            found += segment.tensors()
    return found


def give_memory(engine: "RankedEngine", client: Client) -> None:
    """Let a client have memory to be loaded into, for what of its blocks has none."""
    for holding in client.holdings:
        for network in holding.network_names:
            for index, block in holding.blocks(network).items():
                _copy_lacking(block, engine.networks[network][index])
    client.own_memory()


def _copy_lacking(block: nn.Module, whole: nn.Module) -> None:
    pairs = zip(_tensors(block), _tensors(whole), strict=True)
    for own, theirs in pairs:
        if is_freed(own):
            own.data = theirs.detach().clone().to(own.device)


def _tensors(block: nn.Module) -> list[Tensor]:
    return [*block.parameters(), *block.buffers()]
