"""What a round has changed in clients' blocks, as the server is sent it to compare clients."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import HuscfError
from ..wire import SERVER, Message
from .rounds import FederatedRun


def read_compared(module: FederatedRun) -> dict[int, Tensor]:
    """Return the parameters, (P,), of every client's compared blocks: those that all hold.

    Raises:
        HuscfError: Where there are none.
    """
    network, plan = module.method.observed, module.engine.plan
    held = (
        []
        if network is None
        else [set(entry.cuts.held(network, plan.num_blocks(network))) for entry in plan.clients]
    )
    common = sorted(set.intersection(*held)) if held else []
    found = {}
    held_here = [c for c in plan.client_ids if module.engine.processes.holds(c)]
    for client in held_here if common else ():
        blocks = module.engine.client(client).blocks(network or "")
        own = [p.detach().flatten() for index in common for p in blocks[index].parameters()]
        found[client] = torch.cat(own).float().cpu() if own else torch.zeros(0)
    found = module.engine.processes.add_up(found)
    if not any(len(values) for values in found.values()):
        raise HuscfError(
            "federation.rule: compares what clients change in blocks that all of them hold, and "
            f"there is none of the {network}: take a rule that compares activations"
        )
    return found


def send_updates(before: Mapping[int, Tensor], module: FederatedRun) -> dict[int, np.ndarray]:
    """Let every client send what has changed since then; who has not trained sends nothing.

    Args:
        before: From `read_compared`.
        module: Whose wire carries and counts it.
    """
    found = {}
    for client, now in read_compared(module).items():
        if client not in before or before[client].shape != now.shape:
            continue  # new cuts, and so other blocks, which a round has to go by first
        change = now - before[client]
        if not (change.isfinite().all() and change.any()):
            continue
        message = Message(
            client, SERVER, "blocks", f"{module.method.observed} change", {"x": change}
        )
        found[client] = module.engine.wire.pass_on(message)["x"].double().numpy()
    return found
