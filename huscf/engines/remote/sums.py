"""What a round's clients are compared by, where their sites send sums once a round, and no more.

At a step a site adds its batches to sums of its own; when the server closes the round, it sends
`statistics` for each client. Both commands name the round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from ...errors import HuscfError, check_number
from ...federation import ActivationStatistics, ReferenceBlocks, ReferenceObserver
from ...methods import Method
from ...models import MAIN, SampleShape
from ...randomness import make_wide_rng
from ...wire import SERVER, MemoryWire, Message
from ...wire.frames import Frame, FrameError, TensorSpec
from ..observing import add_to_sums, read_sums, write_sums
from .step import DroppedError

if TYPE_CHECKING:
    from .engine import RemoteEngine
    from .site import Ask

#: No sum of float32 numbers is larger than that.
_LARGEST = torch.finfo(torch.float32).max
#: A covariance may have eigenvalues below zero by rounding, by so much of the mean square.
_ROUNDING = 1e-4

Shown = Literal["reference", "statistics", "nothing"]


@dataclass(frozen=True)
class Comparison:
    """What a site shows, so that its clients can be compared with others; see Federation.

    Args:
        shown: Activations under the reference blocks, sums of them, or nothing but what a step
            needs.
        num_samples: Of a client and round, at least so many.
        noise: On every sample of sums.
    """

    shown: Shown = "reference"
    num_samples: int = 64
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.shown not in get_args(Shown):
            raise HuscfError(f"the server compares clients by {self.shown!r:.40}, unknown here")
        check_number("the server's federation.observed_samples", self.num_samples, 2)
        check_number("the server's federation.statistics_noise", self.noise)

    def explain(self) -> str:
        """Return in words what the server is shown beside a step's tensors."""
        if self.shown == "statistics":
            noise = f", with noise of {self.noise:g}" if self.noise else ""
            return f"by a mean and a covariance, once a round{noise}"
        of_batches = "by activations of a round's first batches"
        return of_batches if self.shown == "reference" else "by nothing that is sent for it"


class OwnSums:
    """What the clients of a site have seen in a round; it leaves the site once, as sums.

    Args:
        method: Says what enters the blocks.
        blocks: That never train, all of them.
        comparison: How many samples, and with what noise.
        seeds: Of each client's noise.
    """

    def __init__(
        self,
        method: Method,
        blocks: ReferenceBlocks,
        comparison: Comparison,
        seeds: Mapping[int, int],
    ) -> None:
        self.method, self.blocks, self.comparison = method, blocks, comparison
        self.seeds = seeds
        self._statistics = ActivationStatistics(len(blocks.blocks), 0.0)
        self._round, self._is_sent = 0, False

    def add(self, number: int, step: int, client_id: int, samples: Tensor) -> None:
        """Add a client's batch, unless it has seen enough in this round.

        Args:
            number: Of the round.
            step: Noise follows from it: a step that is repeated has the same batch and noise.
            client_id: Whose.
            samples: (B, C, H, W) uint8.
        """
        self._enter(number)
        is_enough = self._statistics.num_samples(client_id) >= self.comparison.num_samples
        if is_enough or self._is_sent:
            return
        seed, purpose = self.seeds[client_id], "noise of statistics"
        rng = partial(make_wide_rng, seed, purpose, client_id, step)
        inputs, noise = self.method.reference_inputs(samples), self.comparison.noise
        add_to_sums(self._statistics, self.blocks, client_id, inputs, noise, rng)

    def send(self, number: int, wires: Mapping[int, MemoryWire], ask: "Ask") -> None:
        """Send every client's sums of a round, and forget them."""
        self._enter(number)
        assert self.method.observed is not None
        for client_id in self._statistics.client_ids:
            count = self._statistics.num_samples(client_id)
            content = read_sums(self._statistics, client_id)
            message = Message(client_id, SERVER, "statistics", self.method.observed, content)
            carried = wires[client_id].depart(message)
            ask("statistics", {"client": client_id, "samples": count}, carried)
        self._statistics.reset()
        self._is_sent = True

    def get_state(self) -> dict[str, Any]:
        """Return the sums, and of which round they are."""
        return {
            "round": self._round,
            "is_sent": self._is_sent,
            "statistics": self._statistics.state_dict(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums."""
        self._round, self._is_sent = state["round"], state["is_sent"]
        self._statistics.load_state_dict(state["statistics"])

    def _enter(self, number: int) -> None:
        """Begin anew where the round is another than that of the sums.

        Raises:
            HuscfError: Where it is an earlier one, whose sums have been sent.
        """
        if number < self._round:
            raise HuscfError(f"the server goes back from round {self._round} to {number}")
        if number != self._round:
            self._statistics.reset()
            self._round, self._is_sent = number, False


def take_sums(engine: "RemoteEngine", frame: Frame) -> None:
    """Take a client's sums, which its site sends when the round is closed.

    Raises:
        DroppedError: Where they come too late, when no round is closed.
        FrameError: Where they are not asked for, or are sums of no samples.
    """
    client_id, count = frame.header["client"], frame.header["samples"]
    observer, network = engine.observer, engine.method.observed
    if observer is None or network is None or not engine.sends_sums:
        raise FrameError("statistics: nobody was asked for them")
    if not engine.is_closing:
        raise DroppedError
    if observer.statistics.num_samples(client_id):
        raise FrameError(f"statistics: those of client {client_id} are there")
    if not 1 <= count < observer.num_samples + engine.batch_sizes[client_id]:
        raise FrameError(f"statistics: {count} samples of client {client_id}")
    arrived = engine.open(frame, "statistics", describe_sums(engine.method, observer, engine.shape))
    _check_sums(arrived, count)
    engine.wire.note(Message(client_id, SERVER, "statistics", network, arrived))
    write_sums(observer.statistics, client_id, count, arrived)


def describe_sums(
    method: Method, observer: ReferenceObserver, shape: SampleShape
) -> dict[str, TensorSpec]:
    """Return names, types and shapes of a client's sums."""
    size = (2, shape.channels, shape.image_size, shape.image_size)
    inputs = method.reference_inputs(torch.zeros(size, dtype=torch.uint8))
    trial = ActivationStatistics(None)
    trial.update([0], observer.blocks.run(inputs, 0, None)[MAIN].unsqueeze(1))
    trial.fold()
    return {n: TensorSpec(t.dtype, tuple(t.shape)) for n, t in read_sums(trial, 0).items()}


def _check_sums(arrived: Mapping[str, Tensor], count: int) -> None:
    """Refuse what no samples add up to, which a round could not reckon with."""
    values, products = arrived["values"], arrived["products"]
    if not all(bool((tensor.abs() <= _LARGEST).all()) for tensor in arrived.values()):
        raise FrameError("statistics: a sum is NaN, Inf or too large")
    within = products - torch.outer(values, values) / count
    rounding = _ROUNDING * float(products.trace())
    is_symmetric = bool(((products - products.T).abs() <= rounding).all())
    if not is_symmetric or float(torch.linalg.eigvalsh(within)[0]) < -rounding:
        raise FrameError("statistics: no samples have such a covariance")
