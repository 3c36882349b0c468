"""What each party does of a step's clipping and noise, wherever the other one is."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from ...errors import NonFiniteError
from ...methods import Method, Phase
from ...parties import Party, Server
from ...parties.sample_gradients import LayerCall, square_norms, sum_weighted
from ...randomness import draw_hiding
from .checks import find_free_passes, find_private_phase
from .client import PrivateClient
from .options import DifferentialPrivacy


class Reading(NamedTuple):
    """What of a step follows from records.

    Args:
        free_passes: Names of the passes that read none.
        trained: Networks that are trained on records.
    """

    free_passes: frozenset[str]
    trained: frozenset[str]

    @classmethod
    def of(cls, method: Method, phases: Sequence[Phase]) -> "Reading":
        """Return it for a step's phases."""
        free = frozenset().union(*(find_free_passes(method, phase) for phase in phases))
        return cls(free, frozenset(find_private_phase(method, phases).trains))


def list_calls(party: Party, phase: Phase, client_id: int) -> list[LayerCall]:
    """Return what gives the gradients of a client's records at a party's own parameters."""
    return party.list_calls(client_id, {item.name for item in phase.passes})


def clip_client(
    client: PrivateClient,
    phase: Phase,
    options: DifferentialPrivacy,
    ask_server: Callable[[], Tensor | None],
) -> Tensor:
    """Add a client's gradients to its parameters, those of each record clipped.

    Args:
        client: It has gone back through all passes of the phase.
        phase: One that reads records.
        options: How far.
        ask_server: Returns the records' squared norms over the server's parameters, (R,), or None
            where it has none.

    Returns:
        By what each record's gradient is multiplied, (R,).

    Raises:
        NonFiniteError: Where a record's gradient is NaN or Inf.
    """
    calls = list_calls(client, phase, client.client_id)
    squares = square_norms(calls, client.num_rows)
    if (at_server := ask_server()) is not None:
        squares = squares.to(at_server.device) + at_server
    # A loss is a mean over the batch: a sample's own gradient is as many times larger.
    norms = client.num_rows * squares.sqrt()
    if not bool(norms.isfinite().all()):
        raise NonFiniteError(client.client_id, f"{phase.name}: a record's gradient is NaN or Inf")
    factors = (options.max_grad_norm / norms).clamp(max=1.0) * float(client.is_counted)
    scale = client.num_rows / client.expected_size
    client.add_gradients(sum_weighted(calls, factors * scale))
    return factors


def scale_server(
    server: Server, phase: Phase, shares: Mapping[int, float], sizes: Mapping[int, int]
) -> dict[nn.Parameter, float]:
    """Return the largest weight with which a record enters each of the server's gradients.

    Args:
        server: The server.
        phase: One that reads records.
        shares: Every participant's share in the server's gradient.
        sizes: Expected number of records of a batch, by client.
    """
    found: dict[nn.Parameter, float] = {}
    for network in phase.trains:
        for client_id, share in shares.items():
            scale = share / sizes[client_id]
            for parameter in server.segment(network, client_id).parameters():
                found[parameter] = max(scale, found.get(parameter, 0.0))
    return found


def add_noise(
    party: Party,
    networks: Collection[str],
    options: DifferentialPrivacy,
    scales: Mapping[nn.Parameter, float],
    rng: np.random.Generator,
) -> None:
    """Add noise to a party's gradients, in a fixed order of its parameters.

    Args:
        party: Whose.
        networks: Those that are trained on records.
        options: How strong, for a scale of 1.
        scales: By parameter.
        rng: Draws the noise of this party and step.
    """
    strength = options.noise_multiplier * options.max_grad_norm
    for network in networks:
        for parameter in party.parameters_of(network):
            if parameter.grad is not None and parameter in scales:
                noise = draw_hiding(rng, parameter.grad)
                parameter.grad = parameter.grad + strength * scales[parameter] * noise
