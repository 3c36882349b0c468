"""The root LightningModule and the U-shaped training loop."""

from .lightning_compat import install_step_loop
from .loop import UShapedLoop
from .module import ENGINES, EngineName, SplitModule, build_networks, check_format

__all__ = [
    "ENGINES",
    "EngineName",
    "SplitModule",
    "UShapedLoop",
    "build_networks",
    "check_format",
    "install_step_loop",
]
