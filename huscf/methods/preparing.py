"""What a run makes of a method before its first step: networks, and the request for a plan."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..models import Network, SampleShape
from ..randomness import derive_seed
from ..split import Placement, PlanRequest, RoundTraffic, find_crossing
from .base import Method, check_sample, trace_inputs
from .phases import trace_phases

#: A step, or a round, of a long run: such are planned for.
MANY_STEPS = 10**9

#: Of a sample's label on the wire; its values are bytes.
LABEL_BYTES = 8


def build_networks(method: Method, shape: SampleShape, seed: int) -> dict[str, Network]:
    """Return the full networks with the weights from which everybody starts.

    Raises:
        HuscfError: Where the method does not draw samples of this shape.
    """
    with torch.random.fork_rng(devices=[]):
        # Unlike torch.manual_seed, this leaves the accelerators' streams alone.
        torch.default_generator.manual_seed(derive_seed(seed, "initial weights"))
        networks = method.build_networks(shape)
    check_sample(method, networks, shape)
    return networks


def request_plan(
    method: Method,
    networks: Mapping[str, Network],
    shape: SampleShape,
    batch_sizes: Mapping[int, int],
    seed: int = 0,
) -> PlanRequest:
    """Return what a plan for a method's run is made for.

    Args:
        method: The method.
        networks: Its networks.
        shape: Shape of the samples.
        batch_sizes: Samples per step by client id.
        seed: Of any random choice.
    """
    return PlanRequest(
        networks,
        shape,
        trace_inputs(method, networks, shape),
        dict(batch_sizes),
        seed,
        trace_phases(method.phases(MANY_STEPS)),
        {name: _keep_secrets(method, name, network) for name, network in networks.items()},
        method.count_drawn(len(batch_sizes)),
        {name: _describe_round(method, name, shape) for name in networks},
    )


def _describe_round(method: Method, network: str, shape: SampleShape) -> RoundTraffic:
    """Return what a round's end sends of a network."""
    mixing = method.mixing(network, MANY_STEPS)
    goes_up, comes_down = mixing != "keep", mixing in ("average", "swap")
    sample_bytes = shape.channels * shape.image_size**2 + LABEL_BYTES
    shared = method.num_shared * sample_bytes if mixing == "share" else 0
    return RoundTraffic(goes_up, comes_down, shared)


def _keep_secrets(method: Method, name: str, network: Network) -> Placement:
    """Return a method's placement with ends that reach beyond all blocks that read its secrets."""
    placement = method.placement(name)
    if "inputs" in method.kinds:
        return placement
    count, blocks = len(network), list(network)
    for tail in range(placement.min_tail, count + 1):
        for head in range(placement.min_head, count + 1 - tail):
            if method.public.issuperset(find_crossing(blocks, head, tail).raw):
                return replace(placement, min_head=head, min_tail=tail)
    return placement
