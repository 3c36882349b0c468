"""What every cut of a network gives away of samples before any training: a quick inversion."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import HuscfError
from ..methods import Method
from ..methods.distance_correlation import squared_distance_correlation
from ..models import Network, run_block
from ..split import Placement, find_crossing

#: Strengths of the ridge regression, in units of the mean squared length of what is sent; the
#: attacker has the best.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class CutFigures:
    """What one cut gives away.

    Args:
        head: Blocks of the head before it.
        recovered: Share of the variance of samples that a ridge regression gives back from what
            the head sends, having learned on as many others: 0 is no more than their mean, 1 is
            exactly.
        correlation: Bias-corrected distance correlation between samples and what is sent, from 0
            to 1.
    """

    head: int
    recovered: float
    correlation: float


def measure_cuts(
    method: Method, networks: Mapping[str, Network], samples: Tensor, tail: int = 1
) -> list[CutFigures]:
    """Return what every head of the network gives away through which a method's samples go.

    Args:
        method: The method.
        networks: Its networks, with the weights that are attacked; they stay as they are.
        samples: (N, C, H, W) uint8; the attacker knows the first half.
        tail: Blocks of the tail, of which depends what a skip lets cross.

    Raises:
        HuscfError: Where no client sends what it makes of samples.
    """
    blocks = copy.deepcopy(find_network(method, networks)).train()
    values = method.reference_inputs(samples)
    wanted = samples.flatten(1).double()
    found = []
    for place in range(len(blocks) - tail - 1):
        with torch.no_grad():
            values = {**values, **run_block(place, blocks[place], values)}
        names = find_crossing(list(blocks), place + 1, tail).up
        rows = [values[name].double().reshape(len(samples), -1) for name in names]
        sent = torch.cat(rows, dim=1)
        correlation = squared_distance_correlation(wanted, sent).clamp(min=0).sqrt().item()
        found.append(CutFigures(place + 1, recover(sent, wanted), correlation))
    return found


def find_network(method: Method, networks: Mapping[str, Network]) -> Network:
    """Return the network through which real samples go.

    Raises:
        HuscfError: Where no client has one whose head sends.
    """
    name, place = type(method).__name__, Placement(max_server=0)
    if method.observed is not None:
        place = method.placement(method.observed)
    if method.observed is None or place.max_server == 0:
        raise HuscfError(f"leakage: in {name} no client sends what it makes of samples")
    if place.max_client == 0:
        raise HuscfError(f"leakage: in {name} samples cross as they are, there are no cuts")
    return networks[method.observed]


def recover(sent: Tensor, wanted: Tensor) -> float:
    """Return the share of the variance of rows that a ridge regression gives back, from 0 to 1.

    Args:
        sent: (N, ...) float64, whose second half is attacked.
        wanted: (N, ...) float64, likewise; the first half is known.
    """
    known = len(sent) // 2
    given = sent - sent[:known].mean(0)
    rows = wanted - wanted[:known].mean(0)
    gram = given[:known] @ given[:known].T
    cross = given[known:] @ given[:known].T
    scale = gram.diagonal().mean().clamp(min=1e-300)
    variance = rows[known:].square().mean().clamp(min=1e-300)
    shares = []
    for ridge in _RIDGES:
        weights = torch.linalg.solve(gram + ridge * scale * torch.eye(known).double(), rows[:known])
        shares.append(1 - (cross @ weights - rows[known:]).square().mean() / variance)
    return torch.stack(shares).max().clamp(0, 1).item()


def describe_leakage(
    network: str, blocks: Network, heads: Mapping[int, tuple[float, str]]
) -> dict[str, Any]:
    """Return what `huscf plan --leakage` reads, as plain values.

    Args:
        network: Name of the network.
        blocks: Its blocks.
        heads: Blocks of a head -> share of the samples' variance that it gives away, and by what.
    """
    return {
        "network": network,
        "block_params": [sum(p.numel() for p in block.parameters()) for block in blocks],
        "heads": {str(head): share for head, (share, _) in heads.items()},
        "by": {str(head): attack for head, (_, attack) in heads.items()},
    }


def join_domains(by_domain: Sequence[Sequence[CutFigures]]) -> list[CutFigures]:
    """Return of every cut the figures of the domain that it gives away most of."""
    return [
        max(figures, key=lambda each: each.recovered) for figures in zip(*by_domain, strict=True)
    ]
