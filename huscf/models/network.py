"""A network as an ordered list of blocks that no cut divides."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import HuscfError
from .stacked import can_stack


@dataclass(frozen=True)
class SampleShape:
    """What one sample looks like, shared by all clients of a run.

    Args:
        channels: Colour planes: 1 for grey pictures and spectrograms, 3 for colour.
        image_size: Height and width in pixels (samples are square).
        num_classes: Number of labels; labels run from 0 to num_classes - 1.
    """

    channels: int
    image_size: int
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("channels", "image_size", "num_classes"):
            if getattr(self, name) < 1:
                raise HuscfError(f"sample shape: {name} is {getattr(self, name)}, must be >= 1")


class Network(nn.ModuleList):
    """An ordered list of blocks; the first takes (input, labels), every other one tensor.

    A block is the smallest unit that a cut may not divide, for instance layer + norm +
    activation. State keys begin with the block's index, so the state of any run of blocks is
    named like the full network's.

    Args:
        blocks: The blocks in forward order.

    Raises:
        HuscfError: For layers that cannot be copied, as every client needs them.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        for index, block in enumerate(self):
            hooks = (h for m in block.modules() for h in m._forward_pre_hooks.values())
            if any(isinstance(hook, (SpectralNorm, WeightNorm)) for hook in hooks):
                raise HuscfError(
                    f"block {index}: torch.nn.utils.spectral_norm and weight_norm make layers that "
                    "cannot be copied: use those of torch.nn.utils.parametrizations"
                )

    def __getitem__(self, index: int | slice) -> nn.Module:  # type: ignore[override]
        """Return one block, or a slice as a network of its own."""
        if isinstance(index, slice):
            return Network(list(self)[index])
        return super().__getitem__(index)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Run all blocks, uncut.

        Args:
            inputs: Noise (B, latent_dim) or samples (B, C, H, W).
            labels: (B,) int64.
        """
        return run_blocks(self, inputs, labels)


def run_blocks(blocks: Iterable[nn.Module], inputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """Pass inputs through consecutive blocks.

    Args:
        blocks: Consecutive blocks of one network.
        inputs: Input of the first of them, (B, ...).
        labels: (B,) int64 if the first of them is the network's first block, else None.
    """
    for block in blocks:
        inputs = block(inputs) if labels is None else block(inputs, labels)
        labels = None
    return inputs


def check_networks(
    generator: Network, discriminator: Network, shape: SampleShape, latent_dim: int
) -> None:
    """Refuse networks that are no pair of a GAN, by a pass of two samples; changes nothing.

    Args:
        generator: Needs to make samples of the shape.
        discriminator: Needs to give one logit for each of them.
        shape: Shape of the samples and number of classes.
        latent_dim: Length of the noise vector.

    Raises:
        HuscfError: Naming the network, what came out and what is needed, or the blocks that share
            a parameter, which the copies of every client could not.
    """
    samples = torch.zeros(2, shape.channels, shape.image_size, shape.image_size)
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        _check_blocks(name, network)
    made = _try_out("generator", generator, torch.zeros(2, latent_dim))
    if made != tuple(samples.shape):
        raise HuscfError(f"generator: gives {made} for 2 samples, needs {tuple(samples.shape)}")
    judged = _try_out("discriminator", discriminator, samples)
    if judged not in ((2,), (2, 1)):
        raise HuscfError(
            f"discriminator: gives {judged} for 2 samples, needs one logit for each, (2,)"
        )


def _check_blocks(name: str, network: Network) -> None:
    """Refuse what is no list of blocks, or whose blocks are not apart."""
    if not isinstance(network, Network):
        raise HuscfError(
            f"{name}: needs to be a huscf.models.Network([block, ...]), got "
            f"{type(network).__name__}"
        )
    owners: dict[nn.Parameter, int] = {}
    for index, block in enumerate(network):
        for parameter in block.parameters():
            if owners.setdefault(parameter, index) != index:
                raise HuscfError(
                    f"{name}: blocks {owners[parameter]} and {index} share a parameter, but each "
                    "block is copied apart: give each its own, or make one block of them"
                )


def _try_out(name: str, network: Network, inputs: Tensor) -> tuple[int, ...]:
    """Return the shape of what a copy of the network gives in evaluation mode."""
    values: Any = inputs
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        blocks = copy.deepcopy(network).eval()
        for index, block in enumerate(blocks):
            given = "one tensor" if index else "(input, labels)"
            before = tuple(values.shape)
            try:
                values = block(values) if index else block(values, labels)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise HuscfError(
                    f"{name}: block {index} ({type(block).__name__}) gets {given} and fails on "
                    f"{before}: {reason}"
                ) from error
            if not isinstance(values, Tensor):
                raise HuscfError(
                    f"{name}: block {index} ({type(block).__name__}) gives "
                    f"{type(values).__name__}, needs to hand on one tensor"
                )
        _refuse_draws(name, blocks[0].train(), inputs, labels)
    return tuple(values.shape)


def _refuse_draws(name: str, first: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Refuse random numbers in a first block that may run in threads, which change their order."""
    if not can_stack([first]):
        return
    before = torch.get_rng_state()
    first(inputs, labels)
    if not torch.equal(torch.get_rng_state(), before):
        raise HuscfError(
            f"{name}: block 0 ({type(first).__name__}): join draws random numbers, which is not "
            "reproducible in threads: draw them in a forward of its own"
        )


@torch.no_grad()
def initialize_weights(network: nn.Module, std: float) -> None:
    """Draw the weights of linear layers and convolutions from N(0, std); their biases are 0.

    What else there is keeps its own: norms 1 and 0, embeddings N(0, 1), as at 0.02 the samples
    ignore their labels. Parametrised weights are set through their parametrization, if it has an
    inverse.

    Args:
        network: Changed in place; uses torch's global random stream.
        std: Standard deviation of the weights; 0.02 is DCGAN's.
    """
    weighted = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Conv1d, nn.ConvTranspose1d)
    for module in network.modules():
        if isinstance(module, weighted):
            if not is_parametrized(module, "weight"):
                nn.init.normal_(module.weight, 0.0, std)
            elif all(hasattr(each, "right_inverse") for each in module.parametrizations.weight):  # type: ignore[union-attr]
                module.weight = nn.init.normal_(torch.empty_like(module.weight), 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    renew_spectral_norms(find_spectral_norms(network))


def find_spectral_norms(network: nn.Module) -> list[ParametrizationList]:
    """Return the weights that spectral normalisation divides by an estimate of their norm."""
    lists = (module for module in network.modules() if isinstance(module, ParametrizationList))
    return [each for each in lists if any(isinstance(own, _SpectralNorm) for own in each)]


@torch.no_grad()
def renew_spectral_norms(weights: Iterable[ParametrizationList], num_iterations: int = 15) -> None:
    """Let estimates of norms follow weights that have changed otherwise than by training.

    Args:
        weights: From `find_spectral_norms`.
        num_iterations: Power iterations; a pass in training is one, PyTorch begins with 15.
    """
    for weight in weights:
        was_training = weight.training
        weight.train()
        for _ in range(num_iterations):
            weight()
        weight.train(was_training)
