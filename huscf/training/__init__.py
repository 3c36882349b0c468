"""The root LightningModule and the U-shaped training loop."""

from .checkpoint_checks import FORMAT, check_format
from .federation import Federation
from .lightning_compat import LinkingCheckpoint, install_step_loop, note_sigterm
from .loop import UShapedLoop
from .module import ENGINES, EngineName, SplitModule
from .quiet import silence_dependencies
from .ranked_strategy import RankedStrategy, decide_first, find_rank, share_items
from .rounds import FederatedRun, RoundResult

__all__ = [
    "ENGINES",
    "FORMAT",
    "EngineName",
    "FederatedRun",
    "Federation",
    "LinkingCheckpoint",
    "RankedStrategy",
    "RoundResult",
    "SplitModule",
    "UShapedLoop",
    "check_format",
    "decide_first",
    "find_rank",
    "install_step_loop",
    "note_sigterm",
    "share_items",
    "silence_dependencies",
]

silence_dependencies()
