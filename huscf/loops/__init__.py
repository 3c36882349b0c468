"""The U-shaped training loop."""

from .group_threads import GroupThreads
from .lightning_compat import install_step_loop
from .phases import STEP, Phase
from .step_exchange import StepExchange
from .u_shaped_loop import UShapedLoop

__all__ = ["STEP", "GroupThreads", "Phase", "StepExchange", "UShapedLoop", "install_step_loop"]
