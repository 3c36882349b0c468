"""What is trained: networks, phases, placements, sampling. Plain torch; knows no engine."""

from .augmentation import DiscriminatorAugmentation
from .base import Forward, Method, Streams, request_plan, run_whole, trace_inputs
from .fedgan import FedGan
from .flow_matching import FlowMatching
from .huscf_gan import HuscfGan
from .phases import Backward, Change, Loss, Pass, Phase, trace_passes
from .vae import Vae

__all__ = [
    "Backward",
    "Change",
    "DiscriminatorAugmentation",
    "FedGan",
    "FlowMatching",
    "Forward",
    "HuscfGan",
    "Loss",
    "Method",
    "Pass",
    "Phase",
    "Streams",
    "Vae",
    "request_plan",
    "run_whole",
    "trace_inputs",
    "trace_passes",
]
