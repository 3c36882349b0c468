"""The root LightningModule and the U-shaped training loop."""

from .lightning_compat import install_step_loop, note_sigterm
from .loop import UShapedLoop
from .module import ENGINES, EngineName, SplitModule, check_format
from .ranked_strategy import RankedStrategy, decide_first, find_rank, share_items

__all__ = [
    "ENGINES",
    "EngineName",
    "RankedStrategy",
    "SplitModule",
    "UShapedLoop",
    "check_format",
    "decide_first",
    "find_rank",
    "install_step_loop",
    "note_sigterm",
    "share_items",
]
