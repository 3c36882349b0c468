"""The root LightningModule and the U-shaped training loop."""

from .lightning_compat import LinkingCheckpoint, install_step_loop, note_sigterm
from .loop import UShapedLoop
from .module import ENGINES, EngineName, SplitModule, build_networks, check_format
from .quiet import silence_dependencies
from .ranked_strategy import RankedStrategy, decide_first, find_rank, share_items

__all__ = [
    "ENGINES",
    "EngineName",
    "LinkingCheckpoint",
    "RankedStrategy",
    "SplitModule",
    "UShapedLoop",
    "build_networks",
    "check_format",
    "decide_first",
    "find_rank",
    "install_step_loop",
    "note_sigterm",
    "share_items",
    "silence_dependencies",
]

silence_dependencies()
