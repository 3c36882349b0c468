"""MD-GAN: one generator at the server, a discriminator at every client."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import HuscfError
from ..models import LABELS, Carry, Network, SampleShape
from ..split import Placement
from ..wire import Kind
from .base import Mixing, Streams
from .huscf_gan import HuscfGan
from .phases import Pass, Phase

#: What the server draws for a client: for its discriminator's half of a step, and the generator's.
SHOWN, TRAINED_ON = "shown", "trained on"


class MdGan(HuscfGan):
    """One generator at the server learns from the discriminators of all clients.

    The server draws noise and labels, and sends every client two batches of generated samples with
    their labels: one for a step of the client's discriminator, one of which it wants the gradient
    of the generator's loss at the samples back (the error feedback). At every round's end each
    discriminator goes on at another client, which makes rounds of one epoch the published method
    (configs/methods/mdgan.yaml). So synthetic samples travel, and discriminators that have seen
    private data; real samples and labels do not.

    Source: Hardy, Le Merrer and Sericola, IPDPS 2019, arXiv:1811.03850. Deviations: conditional,
        with labels drawn by the server; non-saturating loss; discriminators go round in a ring of
        random order, as a literal random choice would give one client several; they leave the
        optimiser's moments behind; the mean of feedbacks is not divided by the batch size twice.
        Clients that share a batch have it generated once each, which changes the cost of a
        simulation and nothing that is learned.

    Args:
        num_batches: So many batches the server generates in a step, k; client n takes number n
            modulo k for the generator and the next for its discriminator. None is the logarithm
            of the number of clients, at least 2, so that the two differ.
        **kwargs: As of HuscfGan.
    """

    kinds: frozenset[Kind] = frozenset({"inputs", "outputs", "gradients", "blocks"})
    sent = (f"{SHOWN} labels", f"{TRAINED_ON} labels")

    def __init__(self, num_batches: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.fake_label_weights is not None:
            raise HuscfError("method.fake_label_weights: here the server draws labels evenly")
        if self.mode_seeking:
            raise HuscfError("method.mode_seeking: clients measure it, and here the server draws")
        if num_batches is not None and num_batches < 1:
            raise HuscfError(f"method.num_batches is {num_batches}, must be >= 1")
        self.num_batches = num_batches
        self.num_classes = 1

    def build_networks(self, shape: SampleShape) -> dict[str, Network]:
        """Return generator and discriminator."""
        self.num_classes = shape.num_classes
        return super().build_networks(shape)

    def placement(self, network: str) -> Placement:
        """Return that the server has the whole generator and no part of the discriminator."""
        if network == "generator":
            return Placement(0, 0, max_client=0)
        return Placement(min_server=0, max_server=0)

    def mixing(self, network: str, number: int) -> Mixing:
        """Return that discriminators go round."""
        return "swap" if network == "discriminator" else "average"

    def prepare(self, samples: Tensor, labels: Tensor, streams: Streams, step: int) -> Carry:
        """Return samples in [-1, 1] and labels; noise is the server's."""
        private = super().prepare(samples, labels, streams, step)
        return {name: tensor for name, tensor in private.items() if name != "noise"}

    def count_drawn(self, num_clients: int) -> int:
        """Return k, the number of different batches."""
        return self.num_batches or max(2, math.ceil(math.log(num_clients)))

    def draw(
        self, place: int, num_clients: int, batch_size: int, streams: Streams, step: int
    ) -> Carry:
        """Return noise and labels of the two batches that a client is sent."""
        count = self.count_drawn(num_clients)
        drawn: Carry = {}
        for name, number in ((TRAINED_ON, place % count), (SHOWN, (place + 1) % count)):
            stream = streams(f"batch {number}")
            noise = torch.randn(batch_size, self.latent_dim, generator=stream)
            labels = torch.randint(self.num_classes, (batch_size,), generator=stream)
            drawn |= {f"{name} noise": noise, f"{name} labels": labels}
        return drawn

    def phases(self, step: int) -> tuple[Phase, Phase]:
        """Return the discriminators' half of a step and the generator's, on batches of their own.

        Source: docs/methods.md, what leaves a client.
        """
        judge, fool = super().phases(step)
        return _drive(judge, SHOWN), _drive(fool, TRAINED_ON)


class FslGan(MdGan):
    """One generator at the server; the discriminators of all clients are averaged.

    What a user's devices do to one another is the client's own matter: splitting the discriminator
    over several changes time at home and nothing that is learned. So a client here is a user, and
    planning knows the chain of its devices (`chain` of a profile, docs/planning.md).

    Source: Kortoci et al. 2022, arXiv:2207.01750, and its released notebook. Deviations: as of
        MdGan; feedback is averaged over clients, not summed; discriminators count in proportion to
        samples where federation.weighting says so.

    Args:
        num_batches: As of MdGan; 1 shows the same batch to everybody, in both halves of a step.
        **kwargs: As of HuscfGan.
    """

    def __init__(self, num_batches: int | None = 1, **kwargs: Any) -> None:
        super().__init__(num_batches, **kwargs)

    def mixing(self, network: str, number: int) -> Mixing:
        """Return that discriminators are averaged."""
        return "average"


def _drive(phase: Phase, batch: str) -> Phase:
    """Return a phase whose samples are generated from what the server has drawn."""
    fakes = {item.name for item in phase.passes if item.network == "generator"}
    names = dict.fromkeys(fakes, f"{batch} fakes") | {"noise": f"{batch} noise"}

    def rewire(item: Pass) -> Pass:
        is_drawn = item.name in fakes
        sources: Mapping[str, str] = names
        if is_drawn or fakes & set(item.inputs.values()):
            sources = {**names, LABELS: f"{batch} labels"}
        inputs = {name: sources.get(source, source) for name, source in item.inputs.items()}
        return replace(item, name=names.get(item.name, item.name), inputs=inputs, drawn=is_drawn)

    return Phase(phase.trains, tuple(map(rewire, phase.passes)))
