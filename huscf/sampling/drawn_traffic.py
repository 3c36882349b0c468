"""What drawing through the server would send, where nobody holds a whole network."""

from collections import Counter
from collections.abc import Iterable

import torch

from ..models import Carry, run_first
from ..parties import find_crossings
from ..training import SplitModule


def measure_drawing(module: SplitModule, client_ids: Iterable[int]) -> tuple[int, int]:
    """Return the bytes that clients send and get where sites draw: their cuts alone decide.

    Noise and samples stay with a site; the server runs its blocks of every pass.

    Args:
        module: The trained module; its state is not changed.
        client_ids: Who draws each sample.

    Returns:
        Bytes up and down; 0, 0 under a method whose server draws by itself.
    """
    if "inputs" in module.method.kinds:
        return 0, 0
    up = down = 0
    for client_id, count in Counter(client_ids).items():
        sent, got = _measure_one(module, client_id)
        up, down = up + count * sent, down + count * got
    return up, down


def _measure_one(module: SplitModule, client_id: int) -> tuple[int, int]:
    """Return the bytes up and down of one sample of a client."""
    engine, sent, got = module.engine, 0, 0
    cuts = engine.plan.by_client[client_id].cuts
    crossings = find_crossings(cuts, engine.networks)
    run_here = engine.forward_of(client_id, module.device)

    def run(network: str, inputs: Carry) -> Carry:
        nonlocal sent, got
        blocks = engine.sampling_network(network, client_id)
        here = {name: tensor.to(module.device) for name, tensor in inputs.items()}
        at_head = run_first(blocks, cuts.head(network), here)
        at_tail = run_first(blocks, len(blocks) - cuts.tail(network), here)
        sent += sum(at_head[name].nbytes for name in crossings[network].up)
        got += sum(at_tail[name].nbytes for name in crossings[network].down)
        return run_here(network, inputs)

    module.method.sample(run, torch.zeros(1, dtype=torch.int64), torch.Generator())
    return sent, got
