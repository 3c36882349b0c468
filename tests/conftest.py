"""Fixtures that several folders share."""

import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from huscf.methods import HuscfGan
from huscf.models import ConditionalDiscriminator, ConditionalGenerator, SampleShape
from huscf.split import ExplicitPlan
from huscf.training import SplitModule

REPOSITORY = Path(__file__).resolve().parents[1]
#: Real data sets: where the environment says, else beside the checkout; tests skip without.
SHARED_DATA = Path(os.environ.get("HUSCF_DATA") or REPOSITORY.parent / "shared" / "data")
SHAPE = SampleShape(1, 8, 3)
#: Every engine gives what the first gives.
ENGINES = ("serial", "stacked")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two cores at most, and bit-equal sums, in what modules share too."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread_again(one_thread):
    """Undo what a test has set."""
    yield
    torch.set_num_threads(1)


#: Initial weights come from torch's one stream, which threads of a test must not share.
MAKING = threading.Lock()

#: Arguments of the root module; all others of `make_gan` are the method's.
MODULE_OPTIONS = ("engine", "wire", "server_gradient", "on_nonfinite", "privacy", "seed")


def make_gan(
    cuts: Mapping[int, Sequence[int]], depth: int = 4, norm: str = "batch", **kwargs
) -> SplitModule:
    """A small GAN on 8x8 samples of three classes, with its optimisers outside any trainer.

    Engine "ranked" is for tests that tests.engines.ranked.thread_ranks.call_on_ranks runs.
    """
    options = {name: kwargs.pop(name) for name in MODULE_OPTIONS if name in kwargs}
    shape = kwargs.pop("shape", SHAPE)
    sizes = kwargs.pop("client_sizes", dict.fromkeys(cuts, 60))
    plan = kwargs.pop("plan", None) or ExplicitPlan(cuts)
    networks = {
        "generator": partial(ConditionalGenerator, width=4, depth=depth, norm=norm),
        "discriminator": partial(ConditionalDiscriminator, width=4, depth=depth, norm=norm),
    }
    method_class = kwargs.pop("method_class", HuscfGan)
    method = method_class(**{"latent_dim": 5, **networks, **kwargs})
    is_ranked = options.get("engine") == "ranked"
    if is_ranked:
        options["engine"] = "stacked"
    with MAKING:
        module = SplitModule(shape, dict.fromkeys(cuts, 6), sizes, method, plan, **options)
    module.configure_optimizers()
    # Tests write to parameters.
    for party in module.engine.all_parties().values():
        party.own_memory()
    if is_ranked:
        from tests.engines.ranked.thread_ranks import spread

        spread(module)
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


def run_step(module: SplitModule, batch, step: int = 0) -> dict[str, float]:
    """One whole step without a trainer; the losses by phase."""
    return module.engine.run_step(batch, step).losses
