"""Clients and server: who holds which blocks, with their optimisers and private tensors."""

from .block_state import (
    copy_moments,
    forget_moments,
    free_memory,
    is_freed,
    read_block,
    renew_norms,
    split_moments,
    write_block,
)
from .client import Client, find_crossings
from .guard import Guard, is_finite
from .holdings import ClientBlocks, PerCluster, ServerBlocks
from .party import PartKey, Party, as_leaf, match_layout
from .segment import Clones, Segment
from .server import Server, observed_boundary

__all__ = [
    "Client",
    "ClientBlocks",
    "Clones",
    "Guard",
    "PartKey",
    "Party",
    "PerCluster",
    "Segment",
    "Server",
    "ServerBlocks",
    "as_leaf",
    "copy_moments",
    "find_crossings",
    "forget_moments",
    "free_memory",
    "is_finite",
    "is_freed",
    "match_layout",
    "observed_boundary",
    "read_block",
    "renew_norms",
    "split_moments",
    "write_block",
]
