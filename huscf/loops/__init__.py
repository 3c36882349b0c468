"""The U-shaped training loop."""

from .lightning_compat import install_step_loop
from .phases import STEP, Phase
from .u_shaped_loop import StepExchange, UShapedLoop

__all__ = ["STEP", "Phase", "StepExchange", "UShapedLoop", "install_step_loop"]
