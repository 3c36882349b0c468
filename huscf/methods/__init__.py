"""What is trained: networks, phases, placements, sampling. Plain torch; knows no engine."""

from .augmentation import DiscriminatorAugmentation
from .base import Forward, Method, Mixing, Streams, run_whole, trace_inputs
from .fedgan import FedGan, FeGan
from .flow_matching import FlowMatching
from .huscf_gan import HuscfGan
from .md_gan import FslGan, MdGan
from .phases import Backward, Change, Loss, Pass, Phase, trace_passes
from .pooled_gan import PooledGan
from .preparing import build_networks, request_plan
from .proximal_gan import ProximalGan
from .vae import Vae

__all__ = [
    "Backward",
    "Change",
    "DiscriminatorAugmentation",
    "FeGan",
    "FedGan",
    "FlowMatching",
    "Forward",
    "FslGan",
    "HuscfGan",
    "Loss",
    "MdGan",
    "Method",
    "Mixing",
    "Pass",
    "Phase",
    "PooledGan",
    "ProximalGan",
    "Streams",
    "Vae",
    "build_networks",
    "request_plan",
    "run_whole",
    "trace_inputs",
    "trace_passes",
]
