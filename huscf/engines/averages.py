"""Moving averages of networks that clients and the server hold parts of."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..methods import Method
from ..parties import Party, Segment


@torch.no_grad()
def update_averages(method: Method, parties: Sequence[Party], step: int) -> None:
    """Let parties' averages follow their blocks: x <- decay * x + (1 - decay) * trained."""
    if not method.averaged:
        return
    decay = method.average_decay(step)
    for network in method.averaged:
        averages, trained = (
            [segment for party in parties for segment in getattr(party, name).segments(network)]
            for name in ("average", "trained")
        )
        own, theirs = _divide_tensors(averages), _divide_tensors(trained)
        # PyTorch refuses empty lists: a network without batch norm has no counters.
        if own[0]:
            torch._foreach_lerp_(own[0], theirs[0], 1 - decay)
        if own[1]:
            torch._foreach_copy_(own[1], theirs[1])
        for segment in averages:
            if segment.spectral_norms:
                segment.renew_norms()


def _divide_tensors(segments: Iterable[Segment]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of segments, floating point and others, once each, in fixed order."""
    # Segments may share blocks; tensors are told apart by identity, not by value.
    every = {id(tensor): tensor for segment in segments for tensor in segment.tensors()}
    floats = [tensor for tensor in every.values() if tensor.is_floating_point()]
    return floats, [tensor for tensor in every.values() if not tensor.is_floating_point()]
