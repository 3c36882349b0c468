"""The root LightningModule and the U-shaped training loop."""

from .lightning_compat import LinkingCheckpoint, install_step_loop
from .loop import UShapedLoop
from .module import ENGINES, EngineName, SplitModule, check_format

__all__ = [
    "ENGINES",
    "EngineName",
    "LinkingCheckpoint",
    "SplitModule",
    "UShapedLoop",
    "check_format",
    "install_step_loop",
]
