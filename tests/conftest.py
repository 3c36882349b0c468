"""Fixtures that several folders share."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from huscf.loops import StepExchange, list_phases
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.modules import SplitGAN
from huscf.split import ExplicitPlan

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
SHAPE = SampleShape(1, 8, 3)


@pytest.fixture(autouse=True)
def one_thread():
    """Two cores at most, and bit-equal sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_gan(
    cuts: Mapping[int, Sequence[int]], depth: int = 4, norm: str = "batch", **kwargs
) -> SplitGAN:
    """A small GAN on 8x8 samples of three classes, with its optimisers outside any trainer."""
    module = SplitGAN(
        kwargs.pop("shape", SHAPE),
        dict.fromkeys(cuts, 6),
        kwargs.pop("client_sizes", dict.fromkeys(cuts, 60)),
        generator=partial(ConditionalGenerator, width=4, depth=depth, norm=norm),
        discriminator=partial(ConditionalDiscriminator, width=4, depth=depth, norm=norm),
        plan=kwargs.pop("plan", None) or ExplicitPlan(cuts),
        latent_dim=5,
        **kwargs,
    )
    optimizers = dict(
        zip(("generator", "discriminator"), module.configure_optimizers(), strict=True)
    )
    module.optimizer = optimizers.__getitem__
    return module


def make_batch(client_ids, seed: int = 0, size: int = 6):
    """uint8 samples and labels for every client."""
    stream = torch.Generator().manual_seed(seed)
    return {
        client: (
            torch.randint(0, 256, (size, 1, 8, 8), generator=stream, dtype=torch.uint8),
            torch.randint(0, 3, (size,), generator=stream),
        )
        for client in client_ids
    }


def run_step(module: SplitGAN, batch, step: int = 0) -> dict[str, float]:
    """One whole step without a trainer."""
    for client, (samples, labels) in batch.items():
        module.start_step(client, samples, labels, step)
    exchange = StepExchange(module, list(batch))
    return {
        phase.trains: exchange.run_phase(phase)
        for phase in list_phases(module.weigh_mismatched(step))
    }
