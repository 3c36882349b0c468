"""What clients send so that the server can compare them: samples under blocks that never train."""

import torch
from torch import Tensor

from ..federation import ReferenceBlocks
from ..models import MAIN, Carry, run_blocks
from ..wire import SERVER, Kind, Message
from .attacked_run import AttackedRun, Seen
from .inversion import SoftHead


class ReferenceView:
    """The server's view of samples in a round's first batches, as huscf.callbacks sends them.

    No label enters, every sample is normalised for itself, and the blocks are those of an untrained
    run: the easiest that there is to go back through.

    Args:
        run: Whose clients show themselves.
    """

    way = "when compared"

    def __init__(self, run: AttackedRun) -> None:
        assert run.item is not None
        self.run, self.network = run, run.item.network
        # The last two are left out in training too.
        self.blocks = ReferenceBlocks(list(run.module.engine.networks[self.network])[:-2])

    def observe(self, client_id: int, samples: Tensor, labels: Tensor, batch_size: int) -> Seen:
        """Return what the server is sent of samples; as AttackedRun.observe."""
        depth = self._depth(client_id)
        kind: Kind = "activations" if depth else "inputs"
        made = self.blocks.run(self.run.module.method.reference_inputs(samples), 0, depth)
        sent = {name: made[name] for name in self.blocks.names_needed(depth)}
        message = Message(client_id, SERVER, kind, f"{self.network}_head", sent)
        return Seen(dict(self.run.tap.pass_on(message)), {})

    def soft_head(self, client_id: int) -> SoftHead:
        """Return the blocks as the server can run them; labels do not matter."""
        depth = self._depth(client_id)
        blocks = dict(list(enumerate(self.blocks.blocks))[:depth])

        def run(samples: Tensor, mixture: Tensor) -> Carry:
            shown = torch.zeros(samples.shape, dtype=torch.uint8)
            inputs = self.run.module.method.reference_inputs(shown)
            return run_blocks(blocks, {**inputs, MAIN: samples})

        return run

    def reads_labels(self, client_id: int) -> bool:
        """Return False: the same label enters for all."""
        return False

    def why_not_inverted(self, client_id: int) -> None:
        """Return None: samples enter as they are."""

    def _depth(self, client_id: int) -> int:
        return self.run.module.plan.by_client[client_id].cuts.head(self.network)
