"""What drawing through the server would send, where nobody holds a whole network."""

from collections import Counter
from collections.abc import Iterable

import torch

from ..engines.remote import Crossings
from ..models import Carry
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
    entry = engine.plan.by_client[client_id]
    crossings = Crossings(entry, engine.networks, engine.example_inputs, module.method)
    run_here = engine.forward_of(client_id, module.device)

    def run(network: str, inputs: Carry) -> Carry:
        nonlocal sent, got
        count = len(next(iter(inputs.values())))
        sent += sum(spec.num_bytes for spec in crossings.up(network, count).values())
        got += sum(spec.num_bytes for spec in crossings.down(network, count).values())
        return run_here(network, inputs)

    module.method.sample(run, torch.zeros(1, dtype=torch.int64), torch.Generator())
    return sent, got
