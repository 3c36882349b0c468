"""Messages, the wires that carry them, and the count of their bytes. Plain torch."""

from .defended_wire import DefendedWire
from .message import KINDS, SERVER, Direction, Kind, Message, PartyId, TensorSpec, describe
from .traffic import Traffic, TrafficKey
from .wire import MemoryWire, Wire

__all__ = [
    "KINDS",
    "SERVER",
    "DefendedWire",
    "Direction",
    "Kind",
    "MemoryWire",
    "Message",
    "PartyId",
    "TensorSpec",
    "Traffic",
    "TrafficKey",
    "Wire",
    "describe",
]
