"""The U-shaped training loop."""

from .group_threads import GroupThreads
from .lightning_compat import install_step_loop
from .phases import Phase, list_phases
from .step_exchange import StepExchange
from .u_shaped_loop import UShapedLoop

__all__ = [
    "GroupThreads",
    "Phase",
    "StepExchange",
    "UShapedLoop",
    "install_step_loop",
    "list_phases",
]
