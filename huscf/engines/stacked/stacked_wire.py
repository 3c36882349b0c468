"""What K clients send or receive at once, as K messages where the wire wants to see each."""

from collections.abc import Sequence

import torch

from ...models import Carry
from ...wire import SERVER, Direction, Kind, MemoryWire, Message, PartyId, TrafficKey, Wire


def pass_stacked(
    wire: Wire, client_ids: Sequence[int], kind: Kind, topic: str, is_up: bool, tensors: Carry
) -> Carry:
    """Carry what K clients send or receive over one cut, each its own message.

    Args:
        wire: One that changes nothing is asked to count only.
        client_ids: The clients at one end.
        kind: What the tensors are.
        topic: Which cut is crossed.
        is_up: Whether the clients send.
        tensors: (B, K, ...) each, detached, those of client k at [:, k].
    """
    if isinstance(wire, MemoryWire) and wire.is_identity:
        wire.check_kind(kind, topic)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values()) // len(client_ids)
        for client_id in client_ids:
            direction: Direction = "uplink" if is_up else "downlink"
            wire.traffic.count(TrafficKey(client_id, kind, topic, direction), num_bytes)
        return tensors
    arrived = []
    for position, client_id in enumerate(client_ids):
        own = {name: tensor[:, position] for name, tensor in tensors.items()}
        sender: PartyId = client_id if is_up else SERVER
        receiver: PartyId = SERVER if is_up else client_id
        arrived.append(wire.pass_on(Message(sender, receiver, kind, topic, own)))
    return {name: torch.stack([each[name] for each in arrived], 1) for name in tensors}
