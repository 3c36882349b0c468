"""What is trained: networks, phases, placements, sampling. Plain torch; knows no engine."""

from .augmentation import DiscriminatorAugmentation
from .averages import Average
from .base import Forward, Method, Mixing, Streams, find_drawn, run_whole, trace_inputs
from .fedgan import FedGan, FeGan
from .flow_matching import FlowMatching
from .hfl_gan import HflGan
from .huscf_gan import HuscfGan
from .ifca_gan import IfcaGan
from .ifl_gan import IflGan
from .md_gan import FslGan, MdGan
from .mean_discrepancy import mean_discrepancy
from .pfl_gan import PflGan
from .phases import Backward, Change, Direction, Loss, Pass, Phase, trace_phases
from .pooled_gan import PooledGan
from .preparing import build_networks, request_plan
from .proximal_gan import ProximalGan
from .rate_schedule import RateSchedule
from .vae import Vae

__all__ = [
    "Average",
    "Backward",
    "Change",
    "Direction",
    "DiscriminatorAugmentation",
    "FeGan",
    "FedGan",
    "FlowMatching",
    "Forward",
    "FslGan",
    "HflGan",
    "HuscfGan",
    "IfcaGan",
    "IflGan",
    "Loss",
    "MdGan",
    "Method",
    "Mixing",
    "Pass",
    "PflGan",
    "Phase",
    "PooledGan",
    "ProximalGan",
    "RateSchedule",
    "Streams",
    "Vae",
    "build_networks",
    "find_drawn",
    "mean_discrepancy",
    "request_plan",
    "run_whole",
    "trace_inputs",
    "trace_phases",
]
