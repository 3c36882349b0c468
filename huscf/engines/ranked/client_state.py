"""All that a client's process knows of it, to take over in another process."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...parties import Client
from ...wire import TrafficKey
from .ranks import Parcel

if TYPE_CHECKING:
    from .engine import RankedEngine

#: Of a network, a parameter's name and the optimiser's name for it.
MomentKey = tuple[str, str, str]


def read_client(
    engine: "RankedEngine", client_id: int, with_blocks: bool, with_moments: bool
) -> Parcel:
    """Return a client's counters, and if wanted its blocks and the state of its optimisers."""
    client = engine.client(client_id)
    sums, statistics = engine.server.statistics.read_client(client_id)
    traffic = [
        [key.kind, key.topic, key.direction, count]
        for key, count in engine.wire.traffic.num_bytes.items()
        if key.client_id == client_id
    ]
    blocks = _block_tensors(client) if with_blocks else []
    moments = read_moments(client) if with_moments else {}
    value = {
        "sums": sums,
        "remembered": dict(client.remembered),
        "traffic": traffic,
        "counts": [len(statistics), len(blocks)],
        "moments": list(moments),
    }
    return value, [*statistics, *blocks, *moments.values()]


def write_client(engine: "RankedEngine", client_id: int, parcel: Parcel) -> None:
    """Take over what `read_client` gave in another process."""
    value, tensors = parcel
    num_statistics, num_blocks = value["counts"]
    rest = num_statistics + num_blocks
    engine.server.statistics.write_client(client_id, value["sums"], tensors[:num_statistics])
    for kind, topic, direction, count in value["traffic"]:
        engine.wire.traffic.num_bytes[TrafficKey(client_id, kind, topic, direction)] = count
    client = engine.client(client_id)
    client.remembered = dict(value["remembered"])
    if num_blocks:
        client.own_memory()  # other clients' blocks may lie in the same
    with torch.no_grad():
        own = _block_tensors(client)[:num_blocks]
        for tensor, arrived in zip(own, tensors[num_statistics:rest], strict=True):
            tensor.copy_(arrived)
    if value["moments"]:
        client.set_optimizer_state(sort_moments(client, value["moments"], tensors[rest:]))


def read_moments(client: Client) -> dict[MomentKey, Tensor]:
    """Return the state of a client's optimisers."""
    return {
        (network, name, key): torch.as_tensor(value)
        for network, by_name in client.get_optimizer_state().items()
        for name, values in by_name.items()
        for key, value in values.items()
    }


def sort_moments(
    client: Client, keys: Sequence[Sequence[str]], tensors: Sequence[Tensor]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return moments as Party.get_optimizer_state does, in the memory layout of the parameters."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in client.optimizers}
    for (network, name, key), tensor in zip(keys, tensors, strict=True):
        place, _, path = name.partition(".")
        parameter = client.trained.segments(network)[int(place)].get_parameter(path)
        # Fused optimisers walk moments and parameters as flat arrays, whatever their strides.
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor).detach()
        found[network].setdefault(name, {})[key] = tensor
    return found


def forget_client(client: Client) -> None:
    """Let go of gradients and optimiser state of a client that another process trains."""
    client.zero_grad(set_to_none=True)
    for optimizer in client.optimizers.values():
        optimizer.state.clear()


def _block_tensors(client: Client) -> list[Tensor]:
    """Return all parameters and buffers, moving averages included, in fixed order."""
    return [*client.parameters(), *client.buffers()]
