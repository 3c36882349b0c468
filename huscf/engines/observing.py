"""What clients are compared by where they send sums of their own: once a round, and no samples."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..federation import ActivationStatistics, ReferenceBlocks
from ..models import MAIN, Carry
from ..wire import SERVER, Message

if TYPE_CHECKING:
    from .local import LocalEngine


def add_to_sums(
    sums: ActivationStatistics,
    blocks: ReferenceBlocks,
    client_id: int,
    inputs: Carry,
    noise: float,
    make_rng: Callable[[], np.random.Generator],
) -> None:
    """Let a client add its batch, as all reference blocks show it, to its own sums.

    Args:
        sums: Of the round; a batch that is not finite is left out.
        blocks: That never train.
        client_id: Whose batch.
        inputs: What enters the blocks, (B, ...) each.
        noise: On each sample's numbers, in units of their root mean square; 0 adds none.
        make_rng: Makes what draws the noise.
    """
    blocks.to(inputs[MAIN].device)
    values = blocks.run(inputs, 0, None)[MAIN]
    if not bool(values.isfinite().all()):
        return
    sums.update([client_id], values.unsqueeze(1))
    if noise:
        sums.blur(client_id, noise, make_rng())
    sums.fold()


def read_sums(sums: ActivationStatistics, client_id: int) -> dict[str, Tensor]:
    """Return what a client sends: sums of values (F,) and of products (F, F), float64."""
    # Mean maps, which look like the samples, stay at home.
    _, (values, products, _) = sums.read_client(client_id)
    return {"values": values, "products": products}


def write_sums(
    sums: ActivationStatistics, client_id: int, count: int, arrived: Mapping[str, Tensor]
) -> None:
    """Take over what a client has sent.

    Args:
        sums: The server's.
        client_id: Whose.
        count: Samples behind it.
        arrived: As of `read_sums`.
    """
    values = arrived["values"]
    no_maps = torch.zeros(1, len(values), dtype=values.dtype)
    counts = (1, count, float(count), float(count))  # all samples alike, as in one batch
    sums.write_client(client_id, counts, [values, arrived["products"], no_maps])


def send_sums(engine: "LocalEngine", sums: ActivationStatistics) -> ActivationStatistics:
    """Let clients send their sums; return what the server has of them, in every process."""
    network = engine.method.observed
    assert network is not None
    found = ActivationStatistics(sums.boundary, sums.half_life, sums.frame)
    for client_id in sums.client_ids:
        sent: Mapping[str, Tensor] = read_sums(sums, client_id)
        if engine.processes.holds(client_id):
            sent = engine.wire.pass_on(Message(client_id, SERVER, "statistics", network, sent))
        write_sums(found, client_id, sums.num_samples(client_id), sent)
    return found
