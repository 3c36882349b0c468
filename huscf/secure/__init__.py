"""Sums of which a server learns nothing but themselves: masks that cancel out. NumPy, no torch."""

from .fixed_point import LIMIT, RESOLUTION, decode, encode
from .member import LEAST_MEMBERS, SecureMember, count_needed
from .summing import SecureSum

__all__ = [
    "LEAST_MEMBERS",
    "LIMIT",
    "RESOLUTION",
    "SecureMember",
    "SecureSum",
    "count_needed",
    "decode",
    "encode",
]
