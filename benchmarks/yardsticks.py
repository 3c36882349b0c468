"""What the benchmarks compare with: uncut networks (the limit) and a naive split, in plain PyTorch.

All three ways take one step of the same work: a generator pass, the discriminator on fakes and
reals with an update, the discriminator on the same fakes and an update of the generator.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam

from huscf.methods import HuscfGan
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, Network, SampleShape
from huscf.training import SplitModule

LATENT_DIM = 100
BETAS = (0.5, 0.999)
LEARNING_RATE = 5e-4
REFERENCE_WIDTH = 64

Batch = dict[int, tuple[Tensor, Tensor]]
Step = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """How much work a step is.

    Args:
        num_clients: Clients.
        batch_size: Samples of each client per step.
        width: Of both networks; 64 is the paper's architecture.
        image_size: Side of the samples in pixels.
        device: Where all of it is.
    """

    num_clients: int
    batch_size: int
    width: int = REFERENCE_WIDTH
    image_size: int = 28
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Return for instance "8x64 width 64"."""
        return f"{self.num_clients}x{self.batch_size} width {self.width}"

    @property
    def shape(self) -> SampleShape:
        """Return the shape of the samples."""
        return SampleShape(1, self.image_size, 10)

    def make_batch(self) -> Batch:
        """Return random uint8 samples and labels for every client."""
        stream = torch.Generator().manual_seed(0)
        size = (self.batch_size, 1, self.image_size, self.image_size)
        return {
            client: (
                torch.randint(0, 256, size, generator=stream, dtype=torch.uint8).to(self.device),
                torch.randint(0, 10, (self.batch_size,), generator=stream).to(self.device),
            )
            for client in range(self.num_clients)
        }

    def make_networks(self) -> tuple[Network, Network]:
        """Return a generator and a discriminator."""
        return (
            ConditionalGenerator(self.shape, LATENT_DIM, self.width).to(self.device),
            ConditionalDiscriminator(self.shape, self.width).to(self.device),
        )


def make_module(workload: Workload) -> SplitModule:
    """Return our module with its defaults, its optimisers outside any trainer."""
    clients = range(workload.num_clients)
    method = HuscfGan(
        partial(ConditionalGenerator, width=workload.width),
        partial(ConditionalDiscriminator, width=workload.width),
        LATENT_DIM,
    )
    batch_sizes = dict.fromkeys(clients, workload.batch_size)
    module = SplitModule(workload.shape, batch_sizes, dict.fromkeys(clients, 600), method)
    module.to(workload.device)
    module.configure_optimizers()
    return module


def our_step(workload: Workload, module: SplitModule | None = None) -> Step:
    """Return our step as the loop runs it, moving average and checks included."""
    engine = (module or make_module(workload)).engine
    batch, numbers = workload.make_batch(), count()
    return lambda: engine.run_step(batch, next(numbers))


def limit_step(workload: Workload, channels_last: bool = False) -> Step:
    """Return a step of one uncut pair of networks per client, with one fused Adam per network.

    The discriminator is frozen in the generator phase, as in ours.

    Args:
        workload: Clients, batch and width.
        channels_last: Memory format of samples and weights.
    """
    pairs = [workload.make_networks() for _ in range(workload.num_clients)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for pair in pairs:
        for network in pair:
            network.to(memory_format=layout)
    adams = [
        Adam([p for pair in pairs for p in pair[i].parameters()], LEARNING_RATE, BETAS, fused=True)
        for i in range(2)
    ]
    batch = workload.make_batch()

    def step() -> None:
        for adam in adams:
            adam.zero_grad()
        fakes = []
        for (generator, discriminator), (samples, labels) in zip(
            pairs, batch.values(), strict=True
        ):
            real = scale(samples).contiguous(memory_format=layout)
            fake = generator(torch.randn(len(labels), LATENT_DIM, device=labels.device), labels)
            fakes.append(fake)
            judge(discriminator(fake.detach(), labels), 0.0).backward()
            judge(discriminator(real, labels), 1.0).backward()
        adams[1].step()
        for i, ((_, discriminator), (_, labels)) in enumerate(
            zip(pairs, batch.values(), strict=True)
        ):
            discriminator.requires_grad_(False)
            judge(discriminator(fakes[i], labels), 1.0).backward()
            discriminator.requires_grad_(True)
            fakes[i] = None
        adams[0].step()

    return step


class NaiveSplit:
    """A plain loop over clients: heads, the server on the concatenation, tails.

    One optimiser per segment, 4 per client and 2 at the server; the discriminator also gets
    parameter gradients in the generator phase, which nobody uses.

    Args:
        workload: Clients, batch and width; every network is cut behind its first and before
            its last block.
    """

    def __init__(self, workload: Workload) -> None:
        self.batch = workload.make_batch()
        self.heads: list[list[nn.Module]] = [[], []]
        self.tails: list[list[nn.Module]] = [[], []]
        for _ in range(workload.num_clients):
            for which, network in enumerate(workload.make_networks()):
                self.heads[which].append(network[0])
                self.tails[which].append(network[len(network) - 1])
        self.servers = [nn.Sequential(*list(n)[1:-1]) for n in workload.make_networks()]
        self.adams = [
            [Adam(part.parameters(), LEARNING_RATE, BETAS) for part in (*heads, *tails, server)]
            for heads, tails, server in zip(self.heads, self.tails, self.servers, strict=True)
        ]

    def step(self) -> None:
        """Make one step."""
        labels = [labels for _, labels in self.batch.values()]
        real = [scale(samples) for samples, _ in self.batch.values()]
        noise = [torch.randn(len(y), LATENT_DIM, device=y.device) for y in labels]
        self._zero_grad(1)
        fakes, make_back = self._forward(0, noise, labels)
        for samples, target in (([f.detach() for f in fakes], 0.0), (real, 1.0)):
            logits, back = self._forward(1, samples, labels)
            back([judge(each, target) for each in logits], None)
        for adam in self.adams[1]:
            adam.step()
        self._zero_grad(0)
        leaves = [f.detach().requires_grad_() for f in fakes]
        logits, back = self._forward(1, leaves, labels)
        back([judge(each, 1.0) for each in logits], None)
        make_back(fakes, [leaf.grad for leaf in leaves])
        for adam in self.adams[0]:
            adam.step()

    def _forward(
        self, which: int, inputs: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> tuple[list[Tensor], Callable]:
        heads = [h(x, y) for h, x, y in zip(self.heads[which], inputs, labels, strict=True)]
        arrived = torch.cat([h.detach() for h in heads]).requires_grad_()
        middle = self.servers[which](arrived)
        sizes = [len(h) for h in heads]
        returned = [m.detach().requires_grad_() for m in middle.split(sizes)]
        outputs = [t(x) for t, x in zip(self.tails[which], returned, strict=True)]

        def backward(ends: Sequence[Tensor], gradients: Sequence[Tensor] | None) -> None:
            for i, end in enumerate(ends):
                end.backward(None if gradients is None else gradients[i])
            middle.backward(torch.cat([r.grad for r in returned]))
            for head, gradient in zip(heads, arrived.grad.split(sizes), strict=True):
                head.backward(gradient)

        return outputs, backward

    def _zero_grad(self, which: int) -> None:
        for adam in self.adams[which]:
            adam.zero_grad()


def scale(samples: Tensor) -> Tensor:
    """Return uint8 samples as float in [-1, 1]."""
    return samples.float().div_(127.5).sub_(1.0)


def judge(logits: Tensor, target: float) -> Tensor:
    """Return the cross-entropy of logits with one target for all."""
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def time_alternately(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Time several ways of doing the same in turns, A B C A B C, after one untimed run of each.

    Returns:
        Wall-clock seconds of every run by name; runs with one index are neighbours in time.
    """
    for step in steps.values():
        step()
    wait_for_device()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            wait_for_device()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def wait_for_device() -> None:
    """Wait until an accelerator, where there is one, has done all that it was asked for."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of neighbouring runs."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
