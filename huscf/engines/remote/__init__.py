"""The engine whose clients live elsewhere: the server's half, the site's half, and their frames."""

from .block_frames import BlockRef
from .caller import Caller, Rejoin
from .drawing import forward_through
from .engine import RemoteEngine
from .expected import Crossings
from .fields import check_fields
from .handing_out import fetch_drawn, hand_out
from .last_averages import LastAverages
from .private_server import PrivateRemoteEngine
from .private_site import PrivateSiteHalf
from .protocol import (
    MAX_PER_CLASS,
    MAX_PROBE,
    PROTOCOL,
    WELCOME,
    Ask,
    Dismissed,
    Dropped,
    check_request,
)
from .secure_sums import SUM_COMMANDS, SiteMembers
from .sessions import Sessions
from .site import SiteHalf, read_cuts
from .sums import Comparison

__all__ = [
    "MAX_PER_CLASS",
    "MAX_PROBE",
    "PROTOCOL",
    "SUM_COMMANDS",
    "WELCOME",
    "Ask",
    "BlockRef",
    "Caller",
    "Comparison",
    "Crossings",
    "Dismissed",
    "Dropped",
    "LastAverages",
    "PrivateRemoteEngine",
    "PrivateSiteHalf",
    "Rejoin",
    "RemoteEngine",
    "Sessions",
    "SiteHalf",
    "SiteMembers",
    "check_fields",
    "check_request",
    "fetch_drawn",
    "forward_through",
    "hand_out",
    "read_cuts",
]
